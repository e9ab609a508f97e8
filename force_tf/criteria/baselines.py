"""The baselines that every method should beat: weight magnitude and chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network


@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """The absolute value of the weight, |θ|. Needs no data and no loss."""

    needs_data: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        return (tf.abs(weight) for weight in network.dense)


@dataclasses.dataclass(frozen=True)
class Random(Criterion):
    """Uniform random scores, by the seed of the search. Needs no data and no loss."""

    needs_data: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        return (tf.constant(network.random.random(weight.shape, np.float32)) for weight in network.weights)
