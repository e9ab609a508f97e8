"""Means over an image: those that lead back to a map keep their axes, those that do not lose them."""

from __future__ import annotations

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.editing import add_constant, add_operation, add_value, place_of, set_shape
from force_tf.export.flatbuffer import made
from force_tf.export.operators import Graph
from force_tf.export.rewrites.pads import Wanted
from force_tf.models.keras_internals.tflite_schema import schema


def keep_axes(model: schema.ModelT, graph: schema.SubGraphT, wanted: Wanted) -> int:
    """Turns a mean that is reshaped to an image of one pixel into one that keeps its axes, as gates of blocks have it.

    Args:
        model: The file.
        graph: The subgraph.
        wanted: Which means to change.

    Returns:
        How many were changed.
    """
    seen = Graph(model, graph)
    count = 0
    for mean in _means(seen):
        if not wanted(mean) or mean.builtinOptions.keepDims:
            continue
        output = mean.outputs[0]
        readers = _readers(model, graph, output)
        # Where the batch may vary, the shape to reshape to is made of the mean's own.
        reshapes = [operator for operator, name in readers if name == "RESHAPE"]
        others = {name for _, name in readers} - {"RESHAPE", "SHAPE"}
        pixel = (*seen.shape(output)[:1], 1, 1, *seen.shape(output)[1:])
        if others or len(reshapes) != 1 or seen.shape(reshapes[0].outputs[0]) != pixel or output in graph.outputs:
            continue
        if reshapes[0].outputs[0] in graph.outputs:
            continue
        mean.outputs = [reshapes[0].outputs[0]]
        mean.builtinOptions.keepDims = True
        graph.operators.remove(reshapes[0])
        count += 1
    return count


def drop_axes(model: schema.ModelT, graph: schema.SubGraphT, wanted: Wanted) -> int:
    """Turns a mean that keeps its axes into one that does not, and puts them back by a RESHAPE.

    A mean that loses its axes ends what runs in another layout; one that keeps them does not.

    Args:
        model: The file.
        graph: The subgraph.
        wanted: Which means to change.

    Returns:
        How many were changed.
    """
    seen = Graph(model, graph)
    count = 0
    for mean in _means(seen):
        output = mean.outputs[0]
        names = {name for _, name in _readers(model, graph, output)}
        safe = output not in graph.outputs and names <= {"RESHAPE", "SHAPE"}
        if not wanted(mean) or not mean.builtinOptions.keepDims or safe:
            continue
        tensor = graph.tensors[output]
        (batch, _, _, channels), varying = map(int, tensor.shape), tensor.shapeSignature
        flat = add_value(model, graph, output, "/flat")
        vector = None if varying is None else (varying[0], varying[3])
        set_shape(graph.tensors[flat], (batch, channels), vector)
        mean.outputs, mean.builtinOptions.keepDims = [flat], False
        fixed = varying is None or varying[0] >= 0
        shape = [batch if fixed else -1, 1, 1, channels]
        target = add_constant(model, graph, np.array(shape, "int32"), "shape")
        options = made(schema.ReshapeOptionsT, newShape=shape)
        add_operation(model, graph, place_of(graph, mean) + 1, "RESHAPE", [flat, target], output, options)
        count += 1
    return count


def _means(graph: Graph) -> list[schema.OperatorT]:
    """Returns the operations that reduce height and width of a map."""
    found = []
    for operator, name in zip(graph.graph.operators, graph.names):
        axes = graph.integers(operator.inputs[1]) if name in ("MEAN", "SUM") else None
        if (
            axes is not None
            and graph.rank(operator.inputs[0]) == 4
            and sorted(int(axis) % 4 for axis in axes) == [1, 2]
        ):
            found.append(operator)
    return found


def _readers(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> list[tuple[schema.OperatorT, str]]:
    readers = [operator for operator in graph.operators if index in list(operator.inputs)]
    return [(operator, flatbuffer.operation_name(model, operator)) for operator in readers]
