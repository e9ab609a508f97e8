"""FORCE: foresight connection sensitivity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.criteria.sensitivity import sensitivities


@dataclasses.dataclass(frozen=True)
class FORCE(Criterion):
    """Foresight connection sensitivity, |θ ⊙ ∂L/∂θ̄| at θ̄ = θ⊙m, for pruned weights too.

    It measures what a weight would matter in the pruned network, at the value that it had before pruning, so that a
    pruned weight can score and return.

    References:
        - [Progressive Skeletonization](https://arxiv.org/abs/2006.09081)
    """

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        return sensitivities(network.dense, network.mean_gradient())
