"""SNIP: connection sensitivity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.criteria.sensitivity import sensitivities


@dataclasses.dataclass(frozen=True)
class SNIP(Criterion):
    """Connection sensitivity, |θ̄ ⊙ ∂L/∂θ̄| at θ̄ = θ⊙m.

    At the dense weights this is SNIP; iterated, with the masks of the step before, Iterative SNIP. A pruned weight
    scores zero.

    References:
        - [SNIP](https://arxiv.org/abs/1810.02340)
        - [Progressive Skeletonization](https://arxiv.org/abs/2006.09081) (Iterative SNIP)
        - Mozer and Smolensky, Skeletonization, NIPS 1988
    """

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        gradients = network.mean_gradient()
        return sensitivities(network.masked_weights(), gradients)
