"""PX: path exclusion, by the paths that data open."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.models.relu_paths import ReluPaths
from force_tf.objective.distribution import distribution_of_model


@dataclasses.dataclass(frozen=True)
class PX(Criterion):
    """Path exclusion, θ̄² ⊙ Σ_b (∂R_b/∂(θ̄²))² over the batches b, with R_b = Σ_rows z1 · z2.

    z1 are the outputs of the network with all weights 1 for the squared inputs, where the ReLUs of the network itself
    say what comes through; z2 those of the network with squared weights and without activations for an input of ones.
    So R sums, over all paths from an input to an output, how often and how strongly the data open a path, times the
    product of its squared weights: a bound of the trace of the neural tangent kernel.

    The network runs in inference mode, in float64. Needs no labels and no loss. Under a `tf.distribute` strategy each
    replica sends its part of the rows through the network.

    References:
        - [Finding Lottery Tickets in Vision Models via Data-driven Spectral Foresight
          Pruning](https://arxiv.org/abs/2406.01820)
    """

    needs_loss: ClassVar[bool] = False

    def prepare(self, network: Network) -> None:
        network.once(_paths)

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        paths, weights = network.once(_paths), network.masked_weights()
        distribution = distribution_of_model(network.model)
        inputs = [tf.nest.flatten(batch.x)[0] for batch in network.next_batches()]
        if distribution is not None:
            inputs = [distribution.parts(batch)[1] for batch in inputs]
        opened = [paths.open_paths(weights, network.masks, batch) for batch in inputs]
        scale = tf.reduce_max([tf.reduce_max(output) for outputs in opened for output in outputs])
        if not bool(tf.math.is_finite(scale)):
            raise ValueError(
                "Expected a network whose paths can be counted in float64. Received: more of them, in "
                f"{network.model.name!r}"
            )
        # One factor for all batches changes no mask, and keeps the squares within float64.
        opened = [[tf.math.divide_no_nan(output, scale) for output in outputs] for outputs in opened]
        gradients = [paths.derivative(weights, outputs) for outputs in opened]
        return [
            tf.square(tf.cast(weight, tf.float64)) * tf.add_n([tf.square(part) for part in parts])
            for weight, parts in zip(weights, zip(*gradients))
        ]


def _paths(network: Network) -> ReluPaths:
    distribution = distribution_of_model(network.model)
    return ReluPaths(network.model, network.weights, None if distribution is None else distribution.on_each)
