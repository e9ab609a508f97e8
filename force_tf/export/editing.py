"""Changes to the graph of a parsed TFLite file: what is added, and what nothing reads any more."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.flatbuffer import made
from force_tf.models.keras_internals.tflite_schema import schema

_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}


def add_constant(model: schema.ModelT, graph: schema.SubGraphT, values: np.ndarray, name: str) -> int:
    """Adds a constant tensor of float32 or int32; returns its number."""
    values = np.ascontiguousarray(values)
    buffer = flatbuffer.add_buffer(model, values.view(np.uint8).ravel())
    kind, shape = _TYPES[values.dtype.name], list(values.shape)
    graph.tensors.append(made(schema.TensorT, shape=shape, type=kind, buffer=buffer, name=name.encode(), hasRank=True))
    return len(graph.tensors) - 1


def add_paddings(model: schema.ModelT, graph: schema.SubGraphT, sizes: Sequence[tuple[int, int]]) -> int:
    """Adds the paddings, before and behind, of height and width; returns the number of the tensor."""
    return add_constant(model, graph, np.array([(0, 0), *sizes, (0, 0)], "int32"), "paddings")


def add_value(model: schema.ModelT, graph: schema.SubGraphT, like: int, suffix: str) -> int:
    """Adds a tensor of the shape and type of another, for operations to fill; returns its number."""
    tensor = copy.copy(graph.tensors[like])
    tensor.buffer = flatbuffer.add_buffer(model)
    tensor.name = (tensor.name or b"value") + suffix.encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def set_shape(tensor: schema.TensorT, sizes: Sequence[int], varying: Sequence[int] | None) -> None:
    """Gives a tensor a shape, and a signature of it with -1 for what may vary, or None."""
    tensor.shape = list(map(int, sizes))
    tensor.shapeSignature = None if varying is None else list(map(int, varying))


def pad_shape(tensor: schema.TensorT, image: schema.TensorT, more: tuple[int, int]) -> None:
    """Gives a tensor the shape of an image with more rows and columns."""
    sizes, varying = (None if each is None else list(map(int, each)) for each in (image.shape, image.shapeSignature))
    for axis, extra in enumerate(more, 1):
        sizes[axis] += extra
        if varying is not None and varying[axis] >= 0:
            varying[axis] += extra
    set_shape(tensor, sizes, varying)


def add_operation(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    position: int,
    name: str,
    inputs: Sequence[int],
    output: int,
    options: Any = None,
    version: int = 1,
) -> schema.OperatorT:
    """Inserts an operation before the one at a position.

    Args:
        model: The file.
        graph: The subgraph.
        position: Its place among the operations.
        name: The operation, such as "PAD".
        inputs: The tensors that it reads.
        output: The tensor that it makes.
        options: An object of one of the schema's classes of options, or None.
        version: The version of the operation.
    """
    operator = made(schema.OperatorT, inputs=list(inputs), outputs=[output])
    operator.opcodeIndex = _code(model, getattr(schema.BuiltinOperator, name), version)
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    graph.operators.insert(position, operator)
    return operator


def _code(model: schema.ModelT, number: int, version: int) -> int:
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version == version:
            return index
    # Numbers that do not fit a byte stand in the newer field alone.
    old = min(number, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    code = made(schema.OperatorCodeT, deprecatedBuiltinCode=old, builtinCode=number, version=version)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def place_of(graph: schema.SubGraphT, operator: schema.OperatorT) -> int:
    """Returns the place of an operation among those of a subgraph."""
    return next(place for place, other in enumerate(graph.operators) if other is operator)


def drop_unread(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Removes operations whose results nothing reads, and then what tensors are left without any use."""
    while True:
        read = {int(index) for operator in graph.operators for index in operator.inputs} | set(map(int, graph.outputs))
        # What makes nothing is there for something else.
        kept = [item for item in graph.operators if not len(item.outputs) or read & set(map(int, item.outputs))]
        if len(kept) == len(graph.operators):
            break
        graph.operators = kept
    lists = [numbers for part in (graph, *graph.operators) for numbers in _numbers(part).values()]
    used = sorted({int(index) for numbers in lists for index in numbers} - {-1})
    new = {old: number for number, old in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in used]
    for part in (graph, *graph.operators):
        for name, numbers in _numbers(part).items():
            setattr(part, name, [new[int(index)] for index in numbers])
    for signature in model.signatureDefs or ():
        if model.subgraphs[signature.subgraphIndex] is graph:
            for item in (*(signature.inputs or ()), *(signature.outputs or ())):
                item.tensorIndex = new[int(item.tensorIndex)]
    flatbuffer.drop_unused_buffers(model)


def _numbers(part: schema.SubGraphT | schema.OperatorT) -> dict[str, Sequence[int]]:
    """Returns the tensors that a subgraph or an operation refers to, by the names of the fields."""
    fields = {name: getattr(part, name, None) for name in ("inputs", "outputs", "intermediates")}
    return {name: numbers for name, numbers in fields.items() if numbers is not None}
