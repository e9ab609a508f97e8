"""Lets maps out of what runs in another layout, by operations that undo each other and of which one turns it back."""

from __future__ import annotations

from collections.abc import Sequence

from force_tf.export.editing import add_operation, add_value, place_of, set_shape
from force_tf.export.flatbuffer import made
from force_tf.export.rewrites.flip import reverse
from force_tf.models.keras_internals.tflite_schema import schema

#: What the number of channels must be a multiple of.
MULTIPLE = 4


def add_gate(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    producer: schema.OperatorT,
    inside: Sequence[schema.OperatorT],
    flipped: tuple[bool, bool],
) -> None:
    """Puts DEPTH_TO_SPACE and SPACE_TO_DEPTH behind a map, for all who read it but those inside.

    Args:
        model: The file.
        graph: The subgraph.
        producer: The operation that makes the map, of a multiple of four channels.
        inside: The operations that go on reading the map as it is.
        flipped: Whether the map is flipped in height and in width, which ends here.
    """
    left = producer.outputs[0]
    held = add_value(model, graph, left, "/inside")
    producer.outputs = [held]
    for operator in inside:
        operator.inputs = [held if index == left else index for index in operator.inputs]
    spread = add_value(model, graph, left, "/spread")
    tensor = graph.tensors[left]
    set_shape(graph.tensors[spread], *(None if each is None else _spread(each) for each in _shapes(tensor)))
    gathered = add_value(model, graph, left, "/outside") if any(flipped) else left
    place = place_of(graph, producer) + 1
    options = made(schema.DepthToSpaceOptionsT, blockSize=2)
    add_operation(model, graph, place, "DEPTH_TO_SPACE", [held], spread, options)
    options = made(schema.SpaceToDepthOptionsT, blockSize=2)
    add_operation(model, graph, place + 1, "SPACE_TO_DEPTH", [spread], gathered, options)
    if any(flipped):
        reverse(model, graph, place + 2, gathered, left, flipped)


def _shapes(tensor: schema.TensorT):
    return tensor.shape, tensor.shapeSignature


def _spread(shape: Sequence[int]) -> list[int]:
    batch, height, width, channels = map(int, shape)
    return [batch, *(size if size < 0 else 2 * size for size in (height, width)), channels // MULTIPLE]
