"""How often the sign of a weight has changed, against its magnitude: for masks that move while a network trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.support import arguments


@dataclasses.dataclass(frozen=True)
class SignFlips(Criterion):
    """The magnitude of a weight against the flips of its sign, |θ|^p / (flips + 1).

    Flips are counted in every step of the optimizer, from the beginning of the training: steps after which the sign is
    another one than before, where zero is a sign of its own. Before a training there are none. Needs no data and no
    loss.

    Args:
        power: p, positive.

    Raises:
        ValueError: If the power is not positive.

    References:
        - [FlipOut](https://arxiv.org/abs/2009.02594), of which the power is 2
    """

    power: float = 2.0
    needs_data: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False
    counted: ClassVar[tuple[str, ...]] = ("sign_flips",)

    def __post_init__(self):
        arguments.number("power", self.power, "(0, inf)")

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        flips = network.memory.get("sign_flips") or [tf.zeros(weight.shape) for weight in network.weights]
        return (
            self._powers(weight) / (tf.cast(count, weight.dtype) + 1) for weight, count in zip(network.dense, flips)
        )

    def _powers(self, weight: tf.Tensor) -> tf.Tensor:
        return tf.square(weight) if self.power == 2 else tf.abs(weight) ** self.power  # several times as fast
