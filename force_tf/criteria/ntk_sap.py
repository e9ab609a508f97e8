"""NTK-SAP: what the trace of the neural tangent kernel is sensitive to, for many initial weights at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.models import keras_internals
from force_tf.models.keras_models import fixed_batch_size, input_specs
from force_tf.models.layer_kinds import is_kind
from force_tf.models.model_state import preserved_variables
from force_tf.models.output_channels import output_axes
from force_tf.models.weights import PrunableWeight
from force_tf.objective.distribution import distribution_of_model
from force_tf.objective.parts import sum_of_parts
from force_tf.support import arguments


@dataclasses.dataclass(frozen=True)
class NTKSAP(Criterion):
    """The sensitivity of the trace of the neural tangent kernel to a mask, for weights and inputs drawn at random.

    With weights θ_r, noise Δ_r and rows of inputs drawn anew for r = 1..R,

        |∂/∂m Σ_r Σ_rows ‖f(θ_r⊙m) − f((θ_r + εΔ_r)⊙m)‖²|

    where f are the outputs as logits, and the statistics of BatchNorm are those of the batch at θ_r⊙m, which count as
    constants. Needs no labels, no loss and, for inputs that are floats, no data: they are drawn from the standard
    normal distribution. Of data that is given the shapes are taken, and what cannot be drawn, such as tokens.

    R is the number of batches per step. Weights that are pruned are drawn from Kaiming's normal distribution; other
    variables, and those of the model after the search, are the model's. Under a `tf.distribute` strategy outputs are
    those of the whole batch on one replica, and replicas share the gradient.

    Args:
        epsilon: ε, the size of the noise.
        rows: The rows in a batch where no data is given.
        redraw: Whether to draw the weights anew for every batch; if not, they are the model's.

    References:
        - [NTK-SAP](https://arxiv.org/abs/2304.02840)
    """

    needs_data: ClassVar[bool] = False

    epsilon: float = 0.01
    rows: int = 100
    redraw: bool = True

    def __post_init__(self):
        arguments.number("epsilon", self.epsilon, "(0, inf)")
        arguments.integer("rows", self.rows, minimum=1)
        arguments.one_of("redraw", self.redraw, (True, False))

    def prepare(self, network: Network) -> None:
        if network.batches is not None:
            return
        kinds = {spec.dtype for spec in tf.nest.flatten(input_specs(network.model))}
        if not all(kind.is_floating for kind in kinds):
            raise ValueError(
                "Expected `data`, since only inputs that are floats can be drawn at random. Received: data=None, and "
                f"the model {network.model.name!r} with inputs of {', '.join(sorted(kind.name for kind in kinds))}"
            )

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        draws = [self._sensitivity(network) for _ in range(network.batches_per_step)]
        return [tf.abs(tf.add_n(parts)) for parts in zip(*draws)]

    def _sensitivity(self, network: Network) -> list[tf.Tensor]:
        """∂/∂m Σ‖f(θ⊙m) − f((θ + εΔ)⊙m)‖² of one batch: of two weights w of the same m, Σ w ⊙ ∂/∂w."""
        variables = [weight.variable for weight in network.weights]
        masks = [tf.cast(mask, value.dtype) for mask, value in zip(network.masks, network.dense)]
        with preserved_variables(network.model):
            dense = [self._weights(network, weight, value) for weight, value in zip(network.weights, network.dense)]
            noisy = [value + self.epsilon * _drawn(network, value.shape, value.dtype) for value in dense]
            inputs = self._inputs(network)
            pairs = [[value * mask for value, mask in zip(values, masks)] for values in (dense, noisy)]
            _assign(variables, pairs[0])
            _take_statistics(network, inputs)
            outputs = []
            for values in pairs:
                _assign(variables, values)
                outputs.append(network.traced(_outputs)(inputs))
            specs = [_spec(inputs), _spec(outputs[0])]
            gradients = []
            for values, others in zip(pairs, reversed(outputs)):
                _assign(variables, values)
                gradients.append(network.gradient_function(_distance, specs)(inputs, others))
        return [
            one * of_one + other * of_other
            for one, of_one, other, of_other in zip(pairs[0], gradients[0], pairs[1], gradients[1])
        ]

    def _weights(self, network: Network, weight: PrunableWeight, value: tf.Tensor) -> tf.Tensor:
        if not self.redraw:
            return value
        outputs = math.prod(weight.shape[axis] for axis in output_axes(weight.layers[-1], weight.attribute))
        deviation = math.sqrt(2 * outputs / math.prod(weight.shape))  # 2 over the inputs of each output
        return deviation * _drawn(network, value.shape, value.dtype)

    def _inputs(self, network: Network) -> Any:
        if network.batches is None:
            rows = fixed_batch_size(network.model) or self.rows
            return tf.nest.map_structure(
                lambda spec: _drawn(network, [rows, *spec.shape[1:]], spec.dtype), input_specs(network.model)
            )
        (batch,) = network.batches.take(1)
        distribution = distribution_of_model(network.model)
        inputs = batch.x if distribution is None else distribution.whole(batch.x)
        return tf.nest.map_structure(
            lambda leaf: _drawn(network, leaf.shape, leaf.dtype) if _is_dense_float(leaf) else leaf, inputs
        )


def _drawn(network: Network, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    return tf.cast(network.random.standard_normal(tuple(shape), np.float32), dtype)


def _is_dense_float(leaf: Any) -> bool:
    return isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating


def _assign(variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values):
        variable.assign(value)


def _take_statistics(network: Network, inputs: Any) -> None:
    """Gives the BatchNorm layers that take statistics in training those of a batch, as moving ones.

    A moving average v ← μ v + (1 − μ) s of a statistic s that starts at zero is (1 − μ) s after one step.
    """
    layers = [each for each in keras_internals.inner_layers(network.model) if is_kind(each, "BatchNormalization")]
    if not layers:
        return
    statistics = [(layer.moving_mean, layer.moving_variance) for layer in layers]
    before = [[tf.convert_to_tensor(variable) for variable in pair] for pair in statistics]
    for pair in statistics:
        _assign(pair, [tf.zeros_like(variable) for variable in pair])
    network.traced(_in_training)(inputs)
    for layer, pair, values in zip(layers, statistics, before):
        after = [tf.convert_to_tensor(variable) for variable in pair]
        if any(bool(tf.reduce_any(value != 0)) for value in after):
            values = [value / (1.0 - float(layer.momentum)) for value in after]
        _assign(pair, values)


def _in_training(model: Any, inputs: Any) -> Any:
    return model(inputs, training=True)


def _outputs(model: Any, inputs: Any) -> list[tf.Tensor]:
    """Returns the outputs as logits, in inference mode and at least in float32."""
    outputs = [keras_internals.logits(output) for output in tf.nest.flatten(model(inputs, training=False))]
    return [tf.cast(each, tf.float32) if each.dtype.size < 4 else each for each in outputs if each.dtype.is_floating]


def _distance(model: Any, inputs: Any, others: Sequence[tf.Tensor]) -> tf.Tensor:
    return sum_of_parts(tf.add_n([tf.reduce_sum(tf.square(a - b)) for a, b in zip(_outputs(model, inputs), others)]))


def _spec(structure: Any) -> Any:
    return tf.nest.map_structure(tf.type_spec_from_value, structure)
