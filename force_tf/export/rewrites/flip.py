"""Computes on images that are flipped in height or width, with kernels that are flipped too: the same numbers.

Keras's "same" padding of an even image is (0, 1) for a 3x3 window of stride 2. In the flipped image that is (1, 0), and
since windows of stride 2 do not reach the last row, (1, 1) then.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.editing import add_constant, add_operation, add_value
from force_tf.export.flatbuffer import made
from force_tf.export.operators import Graph
from force_tf.models.keras_internals.tflite_schema import schema

# The first versions of the runtime that reverse one axis, and several at once.
_REVERSE_VERSION = 1


def reverse(
    model: schema.ModelT, graph: schema.SubGraphT, position: int, image: int, result: int, flipped: Sequence[bool]
) -> None:
    """Inserts what flips an image: an operation for each axis, since older runtimes know one at a time."""
    axes = [axis for axis, wanted in enumerate(flipped, 1) if wanted]
    for number, axis in enumerate(axes):
        last = number == len(axes) - 1
        output = result if last else add_value(model, graph, image, "/flipped")
        numbers = add_constant(model, graph, np.array([axis], "int32"), "axis")
        options = made(schema.ReverseV2OptionsT)
        add_operation(
            model, graph, position + number, "REVERSE_V2", [image, numbers], output, options, _REVERSE_VERSION
        )
        image = output


def flip_kernels(
    model: schema.ModelT, graph: schema.SubGraphT, operators: Sequence[schema.OperatorT], flipped: Sequence[bool]
) -> None:
    """Flips the kernels of convolutions in height and width; other readers of a kernel keep it as it is."""
    seen = Graph(model, graph)
    axes = tuple(axis for axis, wanted in enumerate(flipped, 1) if wanted)
    done: dict[int, int] = {}
    for operator in operators:
        old = int(operator.inputs[1])
        if old not in done:
            readers = [other for other in graph.operators if old in list(other.inputs)]
            alone = all(any(reader is each for each in operators) for reader in readers)
            done[old] = _flipped(model, graph, seen, old, axes, in_place=alone)
        operator.inputs = [operator.inputs[0], done[old], *operator.inputs[2:]]


def _flipped(
    model: schema.ModelT, graph: schema.SubGraphT, seen: Graph, index: int, axes: tuple[int, ...], in_place: bool
) -> int:
    """Flips a constant, also one of 16 bits behind the operation that unpacks it; returns the tensor to read."""
    weight = seen.constant(index)
    values = np.flip(weight.values.reshape(weight.shape), axes)
    buffer = flatbuffer.add_buffer(model, np.ascontiguousarray(values).view(np.uint8).ravel())
    alone = sum(weight.index in list(operator.inputs) for operator in graph.operators) == 1
    if in_place and (alone or weight.index == index):
        weight.tensor.buffer = buffer
        return index
    tensor = copy.copy(weight.tensor)
    tensor.buffer = buffer
    graph.tensors.append(tensor)
    stored = len(graph.tensors) - 1
    if weight.index == index:
        return stored
    unpacking = next(operator for operator in graph.operators if index in list(operator.outputs))
    unpacked = add_value(model, graph, index, "/flipped")
    twin = copy.copy(unpacking)
    twin.inputs, twin.outputs = [stored], [unpacked]
    graph.operators.insert(0, twin)
    return unpacked
