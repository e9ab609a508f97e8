"""Stores the zeros of a TFLite file's weights by their absence.

A sparsely encoded tensor is a tree with a level for each axis: a dense level has all positions, a compressed one only
those with a non-zero value below them. Kernels of the runtime read dense weights, so an operation DENSIFY between the
tensor and its readers fills the zeros in, once, when the file is loaded.

References:
    Smith and Karypis, Tensor-matrix products with a compressed sparse tensor, IA^3 2015: the tree of levels.
    The TACO compiler, Kjolstad et al., OOPSLA 2017: a format for each level.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.editing import drop_unread
from force_tf.export.flatbuffer import Weight, made
from force_tf.models.keras_internals.tflite_schema import schema

# What a tensor, an operation and the levels of the tree take in the file beside their numbers, about.
_OVERHEAD = 300  # bytes
# The first version of the runtime that has the operation.
_DENSIFY_VERSION = "2.2.0"
_INDEX_TYPES = (
    (np.uint8, schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    (np.uint16, schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    (np.int32, schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tensor is stored.

    Attributes:
        order: The axis of each level.
        compressed: Whether each level is compressed.
        bytes: The size of values, segments and indices.
    """

    order: tuple[int, ...]
    compressed: tuple[bool, ...]
    bytes: int


@dataclasses.dataclass(frozen=True)
class Reader:
    """An operation that computes with a weight.

    Attributes:
        name: Its name, such as "CONV_2D".
        quantized: Whether its output is of integers too.
        dequantized: Whether it reads the weight through an operation DEQUANTIZE.
    """

    name: str
    quantized: bool
    dequantized: bool


def encode(
    content: bytes,
    refuse: Callable[[Weight, list[Reader]], str | None] = lambda weight, readers: None,
    *,
    at_least_one: bool = False,
) -> tuple[bytes, list[str]]:
    """Encodes sparsely what becomes smaller by it.

    Args:
        content: A TFLite file whose tensors are all dense.
        refuse: Given a weight and what reads it, returns why it must stay dense, or None.
        at_least_one: Whether to encode the kernel of a convolution for which that costs least, if none gets smaller:
            phones' sparse kernels want one.

    Returns:
        The new file, and for each weight, in the order of `flatbuffer.weights_of`, why it is stored as it is.
    """
    model = flatbuffer.parse(content)
    reasons = []
    spare: list[tuple[int, int, Weight, np.ndarray, Layout]] = []
    widened: dict[int, schema.SubGraphT] = {}
    for weight in list(flatbuffer.weights_of(model)):
        dense_bytes = weight.size * weight.dtype.itemsize
        kept = weight.nonzero
        if kept.size and not kept.any():
            kept.flat[0] = True  # a tensor without any data counts as one that is not constant
        layout = best_layout(kept, weight.dtype.itemsize)
        if layout is None or layout.bytes + _OVERHEAD >= dense_bytes:
            reasons.append("sparse would be no smaller")
            if layout is not None and weight.dtype.kind == "f" and not kept.all():
                spare.append((layout.bytes - dense_bytes, len(reasons) - 1, weight, kept, layout))
        elif weight.zero:
            reasons.append(f"zero is stored as {weight.zero}, but what is left out reads as 0")
        else:
            readers = readers_of(model, weight.graph, weight.index)
            is_output = not readers or weight.index in weight.graph.outputs
            refusal = "an output of the file" if is_output else refuse(weight, readers)
            wide = None if refusal is None or is_output else _wide_layout(weight, readers, kept, refuse)
            if wide is not None:
                _encode(model, _widened(weight), kept, wide)
                widened[id(weight.graph)] = weight.graph
                refusal = f"{wide.bytes:,} bytes as float32 instead of {dense_bytes:,}: {refusal}"
            elif refusal is None:
                _encode(model, weight, kept, layout)
                at_least_one = at_least_one and weight.dtype.kind != "f"
            reasons.append(refusal or f"{layout.bytes:,} instead of {dense_bytes:,} bytes")
    if at_least_one:
        for _, number, weight, kept, layout in sorted(spare, key=lambda item: item[:2]):
            readers = readers_of(model, weight.graph, weight.index)
            if {reader.name for reader in readers} == {"CONV_2D"} and refuse(weight, readers) is None:
                _encode(model, weight, kept, layout)
                reasons[number] = "one sparse tensor turns sparse kernels on"
                break
    for graph in widened.values():
        drop_unread(model, graph)
    flatbuffer.drop_unused_buffers(model)
    return flatbuffer.serialize(model), reasons


def _wide_layout(weight: Weight, readers: list[Reader], kept: np.ndarray, refuse: Callable) -> Layout | None:
    """Returns the layout in which a weight of 16 bits that must not be sparse is smaller with 32 bits, or None."""
    if weight.dtype != np.float16 or not all(reader.dequantized for reader in readers):
        return None
    outputs = set(map(int, weight.graph.outputs))
    if any(outputs & set(map(int, operator.outputs)) for operator in _reading(weight)):
        return None
    layout = best_layout(kept, np.dtype("float32").itemsize)
    if layout is None or layout.bytes + _OVERHEAD >= weight.size * weight.dtype.itemsize:
        return None
    direct = [dataclasses.replace(reader, dequantized=False) for reader in readers]
    return layout if refuse(dataclasses.replace(weight, dtype=np.dtype("float32")), direct) is None else None


def _widened(weight: Weight) -> Weight:
    """Gives a weight of 16 bits, with the values that it has, 32 bits, and those who read it dequantized read it."""
    for dequantize in _reading(weight):
        weight.graph.operators = [operator for operator in weight.graph.operators if operator is not dequantize]
        for operator in weight.graph.operators:
            operator.inputs = [weight.index if i == dequantize.outputs[0] else i for i in operator.inputs]
    weight.tensor.type = schema.TensorType.FLOAT32
    values = weight.values.astype("float32")
    return dataclasses.replace(weight, dtype=values.dtype, buffer=made(schema.BufferT, data=values.view(np.uint8)))


def _reading(weight: Weight) -> list[schema.OperatorT]:
    return [operator for operator in weight.graph.operators if weight.index in operator.inputs]


def readers_of(model: schema.ModelT, graph: schema.SubGraphT, index: int, dequantized: bool = False) -> list[Reader]:
    """Returns the operations of a subgraph that compute with a tensor."""
    found = []
    for operator in graph.operators:
        if index not in operator.inputs:
            continue
        name = flatbuffer.operation_name(model, operator)
        if name == "DEQUANTIZE":
            found += readers_of(model, graph, operator.outputs[0], dequantized=True)
        else:
            types = {graph.tensors[i].type for i in operator.outputs}
            found.append(Reader(name, schema.TensorType.FLOAT32 not in types, dequantized))
    return found


def best_layout(kept: np.ndarray, itemsize: int) -> Layout | None:
    """Returns the smallest layout of a tensor, given which of its values to keep; None for a scalar.

    Axes keep their order, but for one that may become the innermost level: a compressed level costs a segment for each
    position of the levels before it, and narrow axes have narrow indices.
    """
    layouts = []
    for last in range(kept.ndim):
        order = (*(axis for axis in range(kept.ndim) if axis != last), last)
        occupied = [int(np.count_nonzero(level)) for level in _occupied(kept.transpose(order))]
        sizes = [kept.shape[axis] for axis in order]
        for compressed in itertools.product((False, True), repeat=kept.ndim):
            layouts.append(Layout(order, compressed, _bytes(sizes, occupied, compressed, itemsize)))
    # Among equals the last one, in which the order of the axes is kept.
    return min(reversed(layouts), key=lambda layout: layout.bytes, default=None)


def _occupied(kept: np.ndarray) -> list[np.ndarray]:
    """Returns for each level which of its positions have a value to keep at them or below."""
    levels = [kept]
    while levels[0].ndim > 1:
        levels.insert(0, levels[0].any(axis=-1))
    return levels


def _bytes(sizes: list[int], occupied: list[int], compressed: tuple[bool, ...], itemsize: int) -> int:
    positions, total = 1, 0
    for size, count, is_compressed in zip(sizes, occupied, compressed):
        if is_compressed:
            total += (positions + 1) * _index_type(count)[0]().itemsize + count * _index_type(size - 1)[0]().itemsize
            positions = count
        else:
            positions *= size
    return total + positions * itemsize


def _index_type(largest: int) -> tuple:
    return next(kind for kind in _INDEX_TYPES if largest <= np.iinfo(kind[0]).max)


def _encode(model: schema.ModelT, weight: Weight, kept: np.ndarray, layout: Layout) -> None:
    """Encodes a weight in a layout, with an operation DENSIFY between it and its readers."""
    dense = copy.copy(weight.tensor)
    dense.name, dense.buffer = None, flatbuffer.add_buffer(model)
    levels, values = _tree(weight.values.reshape(weight.shape), kept, layout)
    # Scales are for those who compute with the numbers.
    weight.tensor.quantization = None
    weight.tensor.sparsity = made(schema.SparsityParametersT, traversalOrder=list(layout.order), dimMetadata=levels)
    # Another tensor may share the buffer.
    weight.tensor.buffer = flatbuffer.add_buffer(model, values.view(np.uint8))
    weight.graph.tensors.append(dense)
    dense_index = len(weight.graph.tensors) - 1
    first = None
    for position, operator in enumerate(weight.graph.operators):
        if weight.index in operator.inputs:
            first = position if first is None else first
            operator.inputs = [dense_index if index == weight.index else index for index in operator.inputs]
    densify = made(schema.OperatorT, opcodeIndex=_densify_code(model), inputs=[weight.index], outputs=[dense_index])
    weight.graph.operators.insert(first, densify)


def _tree(values: np.ndarray, kept: np.ndarray, layout: Layout) -> tuple[list[schema.DimensionMetadataT], np.ndarray]:
    """Returns the levels of a tensor and the values at the innermost one."""
    values, occupied = values.transpose(layout.order), _occupied(kept.transpose(layout.order))
    positions = np.ones((), bool)
    levels = []
    for size, level, compressed in zip(values.shape, occupied, layout.compressed):
        if compressed:
            children = level[positions]
            segments = np.concatenate([[0], np.cumsum(children.sum(axis=-1))])
            levels.append(_compressed_level(segments, np.nonzero(children)[-1]))
            positions = level
        else:
            levels.append(made(schema.DimensionMetadataT, format=schema.DimensionType.DENSE, denseSize=size))
            positions = np.repeat(positions[..., np.newaxis], size, axis=-1)
    return levels, values[positions]


def _compressed_level(segments: np.ndarray, indices: np.ndarray) -> schema.DimensionMetadataT:
    level = made(schema.DimensionMetadataT, format=schema.DimensionType.SPARSE_CSR)
    level.arraySegmentsType, level.arraySegments = _index_vector(segments)
    level.arrayIndicesType, level.arrayIndices = _index_vector(indices)
    return level


def _index_vector(numbers: np.ndarray) -> tuple[int, object]:
    dtype, union_type, vector = _index_type(numbers.max(initial=0))
    return union_type, made(vector, values=numbers.astype(dtype))


def _densify_code(model: schema.ModelT) -> int:
    flatbuffer.require_runtime_version(model, _DENSIFY_VERSION)
    number = schema.BuiltinOperator.DENSIFY
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == number:
            return index
    model.operatorCodes.append(made(schema.OperatorCodeT, deprecatedBuiltinCode=number, version=1, builtinCode=number))
    return len(model.operatorCodes) - 1
