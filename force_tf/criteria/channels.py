"""Scores of whole channels, by a gate on each: what a network would lose if nothing read the channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.objective.gradients import mean_gradient
from force_tf.objective.objective import Objective
from force_tf.support import arguments


@dataclasses.dataclass(frozen=True)
class Skeletonization(Criterion):
    """The relevance of a unit, ρ = −∂Eˡ/∂α at α = 1, where α is a gate on what others read of it.

    It approximates Eˡ(α = 0) − Eˡ(α = 1), by how much the error rises without the unit. Eˡ = Σ_outputs |t − o|, a mean
    over the patterns, is linear, since the derivative of a squared error vanishes where the network fits well; o are
    probabilities where the model trains on a cross-entropy of logits, and t is one-hot where its targets are class
    numbers. With the weights w that read the unit, ρ = −Σ w·∂Eˡ/∂w.

    After each batch ρ̂ ← decay · ρ̂ + (1 − decay) · ρ, from 0 at the beginning of a search, and of each update while the
    network trains. The units with the least ρ̂ are pruned: signed, so that those that hurt go first.

    For `granularity="channel"`. The paper trains, removes one unit, and trains again:

    ```python
    pruning = force_tf.callbacks.PruneDuringTraining(
        force_tf.criteria.Skeletonization(), 0.5, granularity="channel", schedule="one_by_one", data=(x, y)
    )
    ```

    Args:
        decay: What of ρ̂ a batch leaves; 0.8 in the paper.
        absolute: Whether the units with the least |ρ̂| go instead, as in the SNNS simulator.

    References:
        - Mozer and Smolensky, [Skeletonization](https://proceedings.neurips.cc/paper/1988/hash/07e1cd7dca89a1678042477183b7ac3f-Abstract.html),
          NIPS 1988
    """

    decay: float = 0.8
    absolute: bool = False

    def __post_init__(self):
        arguments.number("decay", self.decay, "[0, 1)")
        arguments.one_of("absolute", self.absolute, (True, False))

    def loss(self, loss: Objective) -> Objective:
        return loss.with_linear_error()

    def prepare(self, network: Network) -> None:
        super().prepare(network)
        network.memory["relevance"] = [tf.zeros_like(weight) for weight in network.masked_weights()]

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        weights, relevance = network.masked_weights(), network.memory["relevance"]
        for batch in network.next_batches():
            gradients = mean_gradient(network.loss_gradient, [batch])
            passed = [-weight * gradient for weight, gradient in zip(weights, gradients)]
            relevance = [self.decay * old + (1 - self.decay) * new for old, new in zip(relevance, passed)]
        network.memory["relevance"] = relevance
        return relevance

    def channel_scores(self, sums: np.ndarray) -> np.ndarray:
        return np.abs(sums) if self.absolute else sums


@dataclasses.dataclass(frozen=True)
class SNAP(Criterion):
    """The sensitivity of the loss to a gate c on each channel, |∂L/∂c| at c = 1, which is |Σ w·∂L/∂w| over its readers.

    SNAP-it puts its gates before the activation, where c scales the incoming weights and the bias. With ReLU that is
    the same, as relu(c·z) = c·relu(z); behind a normalization, which undoes any scale before it, the gate still tells.

    For `granularity="channel"`.

    References:
        - [Pruning via Iterative Ranking of Sensitivity Statistics](https://arxiv.org/abs/2006.00896) (SNAP-it)
    """

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        return (weight * gradient for weight, gradient in zip(network.masked_weights(), network.mean_gradient()))

    def channel_scores(self, sums: np.ndarray) -> np.ndarray:
        return np.abs(sums)
