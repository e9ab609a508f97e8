"""Which products each kind of layer computes in a call: how often it uses each weight, and products of its inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from force_tf.models import keras_internals
from force_tf.models.graph import Shape
from force_tf.models.weights import weight_variable

# Other quantizations pack several weights into one number, or keep the kernel elsewhere.
_PLAIN_KERNELS = (None, "int8", "float8")


class UnknownSizeError(ValueError):
    """A number of products that depends on a size that may vary."""


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """A layer called on tensors.

    Attributes:
        layer: The layer, without a wrapper that only masks it.
        inputs: The shapes of its inputs, batch size included.
        outputs: The shapes of its outputs.
        named: The shapes of its inputs by the names of its arguments, as far as they are known.
        times: How often it is called so.
    """

    layer: Any
    inputs: Sequence[Shape]
    outputs: Sequence[Shape]
    named: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    times: int = 1


@dataclasses.dataclass(frozen=True)
class WeightUse:
    """A weight tensor, each entry of which takes `times` multiply-adds for one sample."""

    layer: Any
    attribute: str
    times: int


@dataclasses.dataclass(frozen=True)
class TensorProduct:
    """A product of tensors of the layer, none of them a weight, that takes `multiply_adds` for one sample."""

    layer: Any
    multiply_adds: int


Part = LayerCall | WeightUse | TensorProduct
Rule = Callable[[LayerCall], Iterator[Part]]


def rule_of(layer: Any) -> Rule | None:
    """Returns what takes a call of a layer apart, or None for a layer of no known kind.

    The parts are weights, products, and calls of layers inside it.
    """
    if getattr(layer, "quantization_mode", None) not in _PLAIN_KERNELS:
        return None
    kinds = (cls for cls in type(layer).__mro__ if cls.__module__.partition(".")[0] in ("keras", "tf_keras"))
    return next((_RULES[cls.__name__] for cls in kinds if cls.__name__ in _RULES), None)


def _size(*sizes: int | None) -> int:
    """Returns the product of sizes; of none, 1."""
    if None in sizes:
        raise UnknownSizeError
    return math.prod(sizes)


def _positions(shape: Shape, data_format: str = "channels_last") -> int:
    """Returns the number of places of a tensor, each of which has all channels."""
    return _size(*(shape[2:] if data_format == "channels_first" else shape[1:-1]))


def _nothing(call: LayerCall) -> Iterator[Part]:
    yield from ()


def _dense(call: LayerCall) -> Iterator[Part]:
    yield WeightUse(call.layer, "kernel", _positions(call.inputs[0]))


def _einsum_dense(call: LayerCall) -> Iterator[Part]:
    inputs, kernel = (part.strip() for part in call.layer.equation.split("->")[0].split(","))
    sizes = dict(zip(kernel, weight_variable(call.layer, "kernel").shape))
    # A weight meets each entry of the input that has its own place on the axes that both have.
    shared = _size(*(size for letter, size in sizes.items() if letter in inputs))
    yield WeightUse(call.layer, "kernel", _size(*call.inputs[0][1:]) // shared)


def _convolution(call: LayerCall) -> Iterator[Part]:
    yield WeightUse(call.layer, "kernel", _positions(call.outputs[0], call.layer.data_format))


def _transposed_convolution(call: LayerCall) -> Iterator[Part]:
    yield WeightUse(call.layer, "kernel", _positions(call.inputs[0], call.layer.data_format))


def _separable_convolution(call: LayerCall) -> Iterator[Part]:
    for attribute in ("depthwise_kernel", "pointwise_kernel"):
        yield WeightUse(call.layer, attribute, _positions(call.outputs[0], call.layer.data_format))


def _reversible_embedding(call: LayerCall) -> Iterator[Part]:
    if len(call.inputs[0]) == len(call.outputs[0]):  # from features back to the vocabulary
        attribute = "embeddings" if call.layer.tie_weights else "reverse_embeddings"
        yield WeightUse(call.layer, attribute, _positions(call.inputs[0]))


def _recurrent(call: LayerCall) -> Iterator[Part]:
    steps = call.inputs[0][0 if getattr(call.layer, "time_major", False) else 1]
    yield LayerCall(call.layer.cell, call.inputs[:1], call.outputs[:1], times=_size(steps))


def _cell(call: LayerCall) -> Iterator[Part]:
    for attribute in ("kernel", "recurrent_kernel"):
        yield WeightUse(call.layer, attribute, 1)


def _convolutional_cell(call: LayerCall) -> Iterator[Part]:
    output, cell = call.outputs[0], call.layer
    # Counted from the end, since the layer may return the outputs of all steps or of the last alone.
    stop = len(output) if cell.data_format == "channels_first" else len(output) - 1
    for attribute in ("kernel", "recurrent_kernel"):
        yield WeightUse(cell, attribute, _size(*output[stop - cell.rank : stop]))


def _stacked_cells(call: LayerCall) -> Iterator[Part]:
    for cell in call.layer.cells:
        yield LayerCall(cell, call.inputs, call.outputs)


def _bidirectional(call: LayerCall) -> Iterator[Part]:
    for layer in (call.layer.forward_layer, call.layer.backward_layer):
        yield LayerCall(layer, call.inputs, call.outputs)


def _time_distributed(call: LayerCall) -> Iterator[Part]:
    steps = _size(call.inputs[0][1])
    inputs, outputs = ([(shape[0], *shape[2:]) for shape in shapes] for shapes in (call.inputs, call.outputs))
    yield LayerCall(call.layer.layer, inputs, outputs, times=steps)


def _wrapper(call: LayerCall) -> Iterator[Part]:
    yield LayerCall(call.layer.layer, call.inputs, call.outputs, call.named)


def _projected_attention(call: LayerCall) -> Iterator[Part]:
    layer = call.layer
    query = call.named.get("query", call.inputs[0])
    value = call.named.get("value", query)
    key = call.named.get("key", value)
    query_dense, key_dense, value_dense, output_dense = keras_internals.attention_projections(layer)
    heads, key_dim = weight_variable(query_dense, "kernel").shape[-2:]
    value_dim = weight_variable(value_dense, "kernel").shape[-1]
    projections = [(query_dense, query), (key_dense, key), (value_dense, value)]
    gate = keras_internals.attention_gate(layer)
    if gate is not None:
        projections.append((gate, query))
    projections.append((output_dense, (*query[:-1], heads, value_dim)))
    for dense, shape in projections:
        yield LayerCall(dense, [shape], [])
    attended = _size(*(value[axis] for axis in keras_internals.attention_axes(layer)))
    yield TensorProduct(layer, _positions(query) * attended * heads * (key_dim + value_dim))


def _attention(call: LayerCall) -> Iterator[Part]:
    query, value = call.inputs[:2]
    pairs = _positions(query) * _positions(value)
    yield TensorProduct(call.layer, pairs * (_size(query[-1]) + _size(value[-1])))


def _dot(call: LayerCall) -> Iterator[Part]:
    axes = call.layer.axes
    summed = call.inputs[0][axes if isinstance(axes, int) else axes[0]]
    yield TensorProduct(call.layer, _size(*call.outputs[0][1:]) * _size(summed))


def _matmul(call: LayerCall) -> Iterator[Part]:
    summed = call.named["x1"][-1] if "x1" in call.named else call.named["x2"][-2]
    yield TensorProduct(call.layer, _size(*call.outputs[0][1:]) * _size(summed))


_RULES: dict[str, Rule] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
    "RNN": _recurrent,
    **dict.fromkeys(("SimpleRNNCell", "LSTMCell", "GRUCell"), _cell),
    "ConvLSTMCell": _convolutional_cell,
    "StackedRNNCells": _stacked_cells,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "SpectralNormalization": _wrapper,
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _projected_attention),
    **dict.fromkeys(("Attention", "AdditiveAttention"), _attention),
    "Dot": _dot,
    "Matmul": _matmul,
    # Their weights scale, shift or are looked up, entry by entry.
    **dict.fromkeys(("BatchNormalization", "GroupNormalization", "LayerNormalization"), _nothing),
    **dict.fromkeys(("RMSNormalization", "Normalization", "PReLU", "Embedding"), _nothing),
    "ReversibleEmbedding": _reversible_embedding,
}
