"""Pads for each convolution by itself, half of its window on every side, as the sparse kernels need it."""

from __future__ import annotations

from collections.abc import Callable

from force_tf.export.editing import add_operation, add_paddings, add_value, pad_shape, place_of
from force_tf.export.flatbuffer import made
from force_tf.export.operators import Graph
from force_tf.export.rewrites.windows import Window, window_of
from force_tf.models.keras_internals.tflite_schema import schema

Wanted = Callable[[schema.OperatorT], bool]


def pad_explicitly(model: schema.ModelT, graph: schema.SubGraphT, flipped: tuple[bool, bool], wanted: Wanted) -> int:
    """Gives each convolution a PAD of its own where that amounts to the same.

    Args:
        model: The file.
        graph: The subgraph.
        flipped: Whether its images are, or will be, flipped in height and in width.
        wanted: Which operations to change.

    Returns:
        How many were changed.
    """
    seen = Graph(model, graph)
    windows = [window_of(seen, operator, name) for operator, name in zip(graph.operators, seen.names)]
    readers = [int(index) for operator in graph.operators for index in operator.inputs]
    count = 0
    for window in windows:
        if window is None or not wanted(window.operator) or not window.fits(flipped):
            continue
        shared = window.pads is not None and readers.count(int(window.operator.inputs[0])) > 1
        if shared or not window.fits_as_it_is:
            _pad(model, graph, window)
            count += 1
    return count


def _pad(model: schema.ModelT, graph: schema.SubGraphT, window: Window) -> None:
    half = window.side // 2
    padded = add_value(model, graph, window.image, "/padded")
    pad_shape(graph.tensors[padded], graph.tensors[window.image], (2 * half, 2 * half))
    paddings = add_paddings(model, graph, [(half, half)] * 2)
    position = place_of(graph, window.operator)
    add_operation(model, graph, position, "PAD", [window.image, paddings], padded, made(schema.PadOptionsT))
    window.operator.inputs = [padded, *window.operator.inputs[1:]]
    window.operator.builtinOptions.padding = schema.Padding.VALID
