"""SynFlow: synaptic flow, without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.criteria.sensitivity import sensitivities
from force_tf.models import keras_internals
from force_tf.models.keras_models import array_variables, input_specs


@dataclasses.dataclass(frozen=True)
class SynFlow(Criterion):
    """Synaptic flow, |θ̄ ⊙ ∂R/∂θ̄|, with R the sum of the outputs for one input of ones.

    Every weight and every statistic of a normalization layer is replaced by its absolute value, and the model runs in
    inference mode. Outputs that are softmax or sigmoid are taken before that activation, since the sum of a softmax
    is constant. Needs no data and no loss.

    R grows with every layer, beyond float32 in deep networks. So it is computed in float64, by a copy of the model
    where Keras can make one.

    References:
        - [SynFlow](https://arxiv.org/abs/2006.05467)
    """

    needs_data: ClassVar[bool] = False
    # In a deep network the flow is a product of many sums and grows beyond float32; the authors use float64 too.
    precision: ClassVar[str | None] = "float64"

    def prepare(self, network: Network) -> None:
        for variable in array_variables(network.model):
            if tf.as_dtype(variable.dtype).is_floating:
                variable.assign(tf.abs(variable))

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        specs = input_specs(network.model, network.batches)
        ones = tf.nest.map_structure(_one_row_of_ones, specs)
        gradients = network.gradient_function(total_flow, [specs])(ones)
        return sensitivities(network.masked_weights(), gradients)


@dataclasses.dataclass(frozen=True)
class SynFlowL2(SynFlow):
    """Synaptic flow over squared weights, |θ̄² ⊙ ∂R/∂(θ̄²)|, with R the sum of the outputs for one input of ones.

    As `SynFlow`, but every weight and statistic is replaced by its square: R sums, over the paths through the network,
    the products of squared weights rather than those of absolute ones. Of the trace of the neural tangent kernel that
    is the factor which does not depend on data.

    References:
        - [A Unified Paths Perspective for Pruning at Initialization](https://arxiv.org/abs/2101.10552)
    """

    def prepare(self, network: Network) -> None:
        for variable in array_variables(network.model):
            if tf.as_dtype(variable.dtype).is_floating:
                variable.assign(tf.square(variable))


def _one_row_of_ones(spec: tf.TensorSpec) -> tf.Tensor:
    shape = [1, *spec.shape[1:]]
    return tf.fill(shape, "1") if spec.dtype == tf.string else tf.ones(shape, spec.dtype)


def total_flow(model: Any, ones: Any) -> tf.Tensor:
    """R: the sum of all outputs, as logits, in inference mode."""
    outputs = tf.nest.flatten(model(ones, training=False))
    return tf.add_n([tf.reduce_sum(keras_internals.logits(output)) for output in outputs])
