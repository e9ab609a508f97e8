"""Which products each kind of layer computes in a call: how often it uses each weight, and products of its inputs."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from force_tf.models import keras_internals
from force_tf.models.graph import Shape
from force_tf.models.layer_kinds import computes_as, registered
from force_tf.models.weights import weight_variable

# Other quantizations pack several weights into one number, or keep the kernel elsewhere.
_PLAIN_KERNELS = (None, "int8", "float8")


class UnknownSizeError(ValueError):
    """A number of products that depends on a size that may vary."""


@dataclasses.dataclass(frozen=True)
class CountedCall:
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


Part = CountedCall | WeightUse | TensorProduct
CostRule = Callable[[CountedCall], Iterator[Part]]


def cost_rule(layer: Any) -> CostRule | None:
    """Returns what takes a call of a layer apart, or None for a layer of no known kind.

    The parts are weights, products, and calls of layers inside it.
    """
    if registered(layer, "multiply_adds") is not None:
        return _registered
    if getattr(layer, "quantization_mode", None) not in _PLAIN_KERNELS:
        return None
    return _COST_RULES.get(computes_as(layer))


def _registered(call: CountedCall) -> Iterator[Part]:
    samples = [[tuple(shape[1:]) for shape in shapes] for shapes in (call.inputs, call.outputs)]
    for shape in (*samples[0], *samples[1]):
        _size(*shape)
    found = registered(call.layer, "multiply_adds")(call.layer, *samples)
    if isinstance(found, numbers.Integral):
        yield TensorProduct(call.layer, int(found))
        return
    known = isinstance(found, Mapping) and all(weight_variable(call.layer, name) is not None for name in found)
    if not known:
        raise ValueError(
            "Expected multiply_adds, as registered, to return a dict from names of weights to how often each entry is "
            f"used, or a number. Received: {found!r} for {call.layer.name!r} of class {type(call.layer).__name__}"
        )
    for attribute, times in found.items():
        yield WeightUse(call.layer, attribute, int(times))


def _size(*sizes: int | None) -> int:
    """Returns the product of sizes; of none, 1."""
    if None in sizes:
        raise UnknownSizeError
    return math.prod(sizes)


def _positions(shape: Shape, data_format: str = "channels_last") -> int:
    """Returns the number of places of a tensor, each of which has all channels."""
    return _size(*(shape[2:] if data_format == "channels_first" else shape[1:-1]))


def _nothing(call: CountedCall) -> Iterator[Part]:
    yield from ()


def _dense(call: CountedCall) -> Iterator[Part]:
    yield WeightUse(call.layer, "kernel", _positions(call.inputs[0]))


def _einsum_dense(call: CountedCall) -> Iterator[Part]:
    inputs, kernel = (part.strip() for part in call.layer.equation.split("->")[0].split(","))
    sizes = dict(zip(kernel, weight_variable(call.layer, "kernel").shape))
    # A weight meets each entry of the input that has its own place on the axes that both have.
    shared = _size(*(size for letter, size in sizes.items() if letter in inputs))
    yield WeightUse(call.layer, "kernel", _size(*call.inputs[0][1:]) // shared)


def _convolution(call: CountedCall) -> Iterator[Part]:
    yield WeightUse(call.layer, "kernel", _positions(call.outputs[0], call.layer.data_format))


def _transposed_convolution(call: CountedCall) -> Iterator[Part]:
    yield WeightUse(call.layer, "kernel", _positions(call.inputs[0], call.layer.data_format))


def _separable_convolution(call: CountedCall) -> Iterator[Part]:
    for attribute in ("depthwise_kernel", "pointwise_kernel"):
        yield WeightUse(call.layer, attribute, _positions(call.outputs[0], call.layer.data_format))


def _reversible_embedding(call: CountedCall) -> Iterator[Part]:
    if len(call.inputs[0]) == len(call.outputs[0]):  # from features back to the vocabulary
        attribute = "embeddings" if call.layer.tie_weights else "reverse_embeddings"
        yield WeightUse(call.layer, attribute, _positions(call.inputs[0]))


def _recurrent(call: CountedCall) -> Iterator[Part]:
    steps = call.inputs[0][0 if getattr(call.layer, "time_major", False) else 1]
    yield CountedCall(call.layer.cell, call.inputs[:1], call.outputs[:1], times=_size(steps))


def _cell(call: CountedCall) -> Iterator[Part]:
    for attribute in ("kernel", "recurrent_kernel"):
        yield WeightUse(call.layer, attribute, 1)


def _convolutional_cell(call: CountedCall) -> Iterator[Part]:
    output, cell = call.outputs[0], call.layer
    # Counted from the end, since the layer may return the outputs of all steps or of the last alone.
    stop = len(output) if cell.data_format == "channels_first" else len(output) - 1
    for attribute in ("kernel", "recurrent_kernel"):
        yield WeightUse(cell, attribute, _size(*output[stop - cell.rank : stop]))


def _stacked_cells(call: CountedCall) -> Iterator[Part]:
    for cell in call.layer.cells:
        yield CountedCall(cell, call.inputs, call.outputs)


def _bidirectional(call: CountedCall) -> Iterator[Part]:
    for layer in (call.layer.forward_layer, call.layer.backward_layer):
        yield CountedCall(layer, call.inputs, call.outputs)


def _time_distributed(call: CountedCall) -> Iterator[Part]:
    steps = _size(call.inputs[0][1])
    inputs, outputs = ([(shape[0], *shape[2:]) for shape in shapes] for shapes in (call.inputs, call.outputs))
    yield CountedCall(call.layer.layer, inputs, outputs, times=steps)


def _wrapper(call: CountedCall) -> Iterator[Part]:
    yield CountedCall(call.layer.layer, call.inputs, call.outputs, call.named)


def _projected_attention(call: CountedCall) -> Iterator[Part]:
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
        yield CountedCall(dense, [shape], [])
    attended = _size(*(value[axis] for axis in keras_internals.attention_axes(layer)))
    yield TensorProduct(layer, _positions(query) * attended * heads * (key_dim + value_dim))


def _attention(call: CountedCall) -> Iterator[Part]:
    query, value = call.inputs[:2]
    pairs = _positions(query) * _positions(value)
    yield TensorProduct(call.layer, pairs * (_size(query[-1]) + _size(value[-1])))


def _dot(call: CountedCall) -> Iterator[Part]:
    axes = call.layer.axes
    summed = call.inputs[0][axes if isinstance(axes, int) else axes[0]]
    yield TensorProduct(call.layer, _size(*call.outputs[0][1:]) * _size(summed))


def _matmul(call: CountedCall) -> Iterator[Part]:
    summed = call.named["x1"][-1] if "x1" in call.named else call.named["x2"][-2]
    yield TensorProduct(call.layer, _size(*call.outputs[0][1:]) * _size(summed))


# By the names that `computes_as` returns.
_COST_RULES: dict[str, CostRule] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
    **dict.fromkeys(("RNN", "SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _recurrent),
    **dict.fromkeys(("SimpleRNNCell", "LSTMCell", "GRUCell"), _cell),
    "ConvLSTMCell": _convolutional_cell,
    "StackedRNNCells": _stacked_cells,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "SpectralNormalization": _wrapper,
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _projected_attention),
    **dict.fromkeys(("Attention", "AdditiveAttention"), _attention),
    "Dot": _dot,
    "ops.Matmul": _matmul,
    # Their weights scale, shift or are looked up, entry by entry.
    **dict.fromkeys(("BatchNormalization", "SyncBatchNormalization"), _nothing),
    **dict.fromkeys(("GroupNormalization", "LayerNormalization"), _nothing),
    **dict.fromkeys(("RMSNormalization", "Normalization", "PReLU", "Embedding"), _nothing),
    "ReversibleEmbedding": _reversible_embedding,
}
