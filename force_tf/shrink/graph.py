"""A model as a graph: which layer is called on which tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from force_tf.keras_models import keras_of


@dataclasses.dataclass(frozen=True)
class Call:
    """A layer called on tensors.

    Attributes:
        layer: A layer, a model inside the model, or an operation of Keras's that is no layer.
        inputs: The numbers of its input tensors.
        outputs: The numbers of its output tensors.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """The calls of a Functional or Sequential model; models inside it are called like layers.

    Attributes:
        calls: Each after those whose outputs it takes.
        shapes: The shape of each tensor, batch size included; None for what may vary.
        outputs: The numbers of the tensors that the model returns.
    """

    calls: list[Call]
    shapes: list[tuple[int | None, ...]]
    outputs: tuple[int, ...]


def graph_of(model: Any) -> Graph:
    """Returns the graph of a built Functional or Sequential model of either Keras."""
    if isinstance(model, keras.Sequential):
        model = model._functional
    numbers: dict[int, int] = {}
    shapes: list[tuple[int | None, ...]] = []

    def number(tensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(shapes)
            shapes.append(tuple(tensor.shape))
        return numbers[id(tensor)]

    calls = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if keras_of(model) is keras:
                layer, inputs, outputs = node.operation, node.arguments.keras_tensors, node.outputs
            else:
                layer, inputs, outputs = node.layer, node.keras_inputs, keras.tree.flatten(node.outputs)
            calls.append(Call(layer, tuple(map(number, inputs)), tuple(map(number, outputs))))
    return Graph(calls, shapes, tuple(number(tensor) for tensor in keras.tree.flatten(model.outputs)))
