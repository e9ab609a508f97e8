"""GraSP: preservation of the gradient flow, and its iterative form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.objective.gradients import mean_gradient, mean_hessian_product
from force_tf.objective.objective import Objective
from force_tf.support import arguments
from force_tf.support.host_memory import put_all_aside


@dataclasses.dataclass(frozen=True)
class GraSP(Criterion):
    """Gradient signal preservation, θ̄ ⊙ Hg, signed.

    g is the mean gradient over the batches, and Hg the mean over the same batches of ∇(stop_gradient(g)·∇L_b). Removing
    a weight changes ‖g‖² by −2 θ_j (Hg)_j to first order; the weights whose removal would cost most gradient are kept.

    Args:
        temperature: Divides the logits of cross-entropy losses (of models that end in softmax, the log-probabilities).
            Other losses are taken as they are.

    References:
        - [GraSP](https://arxiv.org/abs/2002.07376)
    """

    temperature: float = 200.0

    def __post_init__(self):
        arguments.number("temperature", self.temperature, "(0, inf)")

    def loss(self, loss: Objective) -> Objective:
        return loss.with_temperature(self.temperature)

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        batches = network.next_batches()
        gradient = put_all_aside(mean_gradient(network.loss_gradient, batches))  # gives way to the scores
        products = mean_hessian_product(network.loss_gradient, gradient, batches)
        return (weight * product for weight, product in zip(network.masked_weights(), products))


@dataclasses.dataclass(frozen=True)
class IterGraSP(Criterion):
    """GraSP-It, (∂L/∂θ̄)² at θ̄ = θ⊙m: the gradient norm of the pruned network, split among its weights.

    References:
        - [Progressive Skeletonization](https://arxiv.org/abs/2006.09081)
    """

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        return (tf.square(gradient) for gradient in network.mean_gradient())
