"""Scores by the gradient alone, for growth while a network trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import tensorflow as tf

from force_tf.criteria.base import Criterion, Network


@dataclasses.dataclass(frozen=True)
class GradientMagnitude(Criterion):
    """The absolute value of the gradient, |∂L/∂θ̄| at θ̄ = θ⊙m, for pruned weights too.

    References:
        - [RigL](https://arxiv.org/abs/1911.11134), which grows by it
    """

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        return (tf.abs(gradient) for gradient in network.mean_gradient())
