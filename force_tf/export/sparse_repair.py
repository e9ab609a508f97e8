"""Keeps XNNPACK from switching to sparse kernels where they would compute something else."""

from __future__ import annotations

import copy

from force_tf.export import flatbuffer
from force_tf.export.editing import add_paddings, add_value, pad_shape
from force_tf.export.sparse_kernels import SPARSE, WRONG, Cluster, clusters_of, stores_sparsely
from force_tf.models.keras_internals.tflite_schema import schema


def kept_right(content: bytes, *, off: bool = False) -> tuple[bytes, tuple[Cluster, ...]]:
    """Returns a TFLite file that computes the same on Arm, and the clusters that would not have.

    Their first convolution is the only way into a cluster, and is none if its paddings are not all 1. So it gets
    others: of what is padded below and on the right, an even image needs nothing, and an odd one does not notice a
    second row or column. Where the size of the image may vary, what is padded before the image and behind it is padded
    by two operations, of which the runtime draws one into the convolution. Every output stays what it was.

    Args:
        content: A TFLite file.
        off: Whether to keep clusters from the sparse kernels that would come out right.
    """
    model = flatbuffer.parse(content)
    if not stores_sparsely(model):
        return content, ()
    changed: list[Cluster] = []
    unwanted = (WRONG, SPARSE) if off else (WRONG,)
    while found := [cluster for cluster in clusters_of(model) if cluster.verdict in unwanted]:
        for cluster in found:
            graph = model.subgraphs[cluster.graph]
            for convolution in [graph.operators[position] for position in cluster.entries]:
                _pad_otherwise(model, graph, convolution)
        changed += found
    wrong = tuple(cluster for cluster in changed if cluster.verdict == WRONG)
    return (flatbuffer.serialize(model) if changed else content), wrong


def _pad_otherwise(model: schema.ModelT, graph: schema.SubGraphT, convolution: schema.OperatorT) -> None:
    position = next(
        position
        for position, operator in enumerate(graph.operators)
        if len(operator.outputs) and operator.outputs[0] == convolution.inputs[0]
    )
    pad = graph.operators[position]
    image = graph.tensors[pad.inputs[0]]
    fixed = image.shape if image.shapeSignature is None else image.shapeSignature
    ends = [_end(int(size)) for size in fixed[1:3]]
    if ends == [None, None]:
        _split(model, graph, position)
        return
    if 0 in ends:  # which takes less time than more rows
        ends = [end if end == 0 else 1 for end in ends]
    else:
        ends = [end or 1 for end in ends]
        ends = [ends[0], 1] if ends[0] == 2 else ends
    pad.inputs = [pad.inputs[0], add_paddings(model, graph, [(1, ends[0]), (1, ends[1])])]
    pad_shape(graph.tensors[pad.outputs[0]], image, [1 + end for end in ends])


def _end(size: int) -> int | None:
    """Returns by how much to pad after an image of this size, other than by 1; None if the size may vary."""
    return None if size < 1 else 2 * (size % 2)


def _split(model: schema.ModelT, graph: schema.SubGraphT, position: int) -> None:
    """Pads before the image, and then behind it.

    The runtime goes through the values in the order of their numbers, and draws in what it finds before a convolution.
    The value between the two paddings has the lower number, and so has had its turn when the second one is drawn in.
    """
    pad = graph.operators[position]
    between = pad.outputs[0]
    image, middle = graph.tensors[pad.inputs[0]], graph.tensors[between]
    last = add_value(model, graph, between, "")
    pad_shape(middle, image, (1, 1))
    middle.name = (middle.name or b"pad") + b"/before"
    for operator in graph.operators:
        operator.inputs = [last if index == between else index for index in operator.inputs]
    second = copy.copy(pad)
    second.inputs, second.outputs = [between, add_paddings(model, graph, [(0, 1), (0, 1)])], [last]
    pad.inputs = [pad.inputs[0], add_paddings(model, graph, [(1, 0), (1, 0)])]
    graph.operators.insert(position + 1, second)
