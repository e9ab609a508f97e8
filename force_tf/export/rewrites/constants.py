"""Brings what is added to or multiplied with a map into the form that the sparse kernels know."""

from __future__ import annotations

import numpy as np

from force_tf.export.editing import add_constant
from force_tf.export.operators import Graph
from force_tf.export.rewrites.pads import Wanted
from force_tf.models.keras_internals.tflite_schema import schema


def put_constants_first(model: schema.ModelT, graph: schema.SubGraphT, wanted: Wanted) -> int:
    """Makes constants of additions and multiplications the first operand, with four axes.

    Args:
        model: The file.
        graph: The subgraph.
        wanted: Which operations to change.

    Returns:
        How many were changed.
    """
    seen = Graph(model, graph)
    count = 0
    for operator, name in zip(graph.operators, seen.names):
        if name not in ("ADD", "MUL") or not wanted(operator) or seen.rank(operator.outputs[0]) != 4:
            continue
        constants = [index for index in operator.inputs if seen.is_constant(index)]
        values = None if len(constants) != 1 else _values(seen, constants[0])
        if values is None or sum(size != 1 for size in values.shape) > 1:
            continue
        (other,) = (index for index in operator.inputs if index != constants[0])
        if seen.rank(other) != 4 or seen.shape(other) != seen.shape(operator.outputs[0]):
            continue
        if values.ndim == 4 and operator.inputs[0] == constants[0]:
            continue
        values = values.reshape((1,) * (4 - values.ndim) + values.shape)
        name = (graph.tensors[constants[0]].name or b"constant").decode()
        operator.inputs = [add_constant(model, graph, values, name), other]
        count += 1
    return count


def _values(graph: Graph, index: int) -> np.ndarray | None:
    weight = graph.constant(index)
    if weight is None or weight.sparse or weight.dtype.kind != "f" or len(weight.shape) > 4:
        return None
    return weight.values.astype("float32").reshape(weight.shape)
