"""A model as a graph: which layer is called on which tensors."""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import is_graph, keras_of
from force_tf.models.paths import unwrapped

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class GraphCall:
    """A layer called on tensors.

    Attributes:
        layer: A layer, a model inside the model, or an operation of Keras's that is no layer.
        inputs: The numbers of its input tensors.
        outputs: The numbers of its output tensors.
        names: For each input, the argument of the layer's `call` that it is, or is part of; "" if it has no name.
        tensors: The symbolic input tensors themselves.
        arguments: The positional and the keyword arguments, with these tensors among them.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: tuple[str, ...]
    tensors: tuple[Any, ...] = dataclasses.field(repr=False, compare=False)
    arguments: tuple[tuple, dict[str, Any]] = dataclasses.field(repr=False, compare=False)

    @property
    def other_arguments(self) -> list[Any]:
        """What the layer is given besides its input tensors, structures taken apart."""
        taken = {id(tensor) for tensor in self.tensors}
        return [value for value in keras.tree.flatten(self.arguments) if id(value) not in taken]

    def evaluate(self, inputs: Sequence[tf.Tensor]) -> Any:
        """Returns what the layer makes of other tensors, with all other arguments as they are."""
        given = {id(old): new for old, new in zip(self.tensors, inputs)}
        args, kwargs = keras.tree.map_structure(lambda value: given.get(id(value), value), self.arguments)
        return self.layer(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Graph:
    """The calls of a Functional or Sequential model; models inside it are called like layers.

    Attributes:
        calls: Each after those whose outputs it takes.
        shapes: The shape of each tensor, batch size included; None for what may vary.
        inputs: The numbers of the tensors that the model takes.
        outputs: The numbers of the tensors that the model returns.
    """

    calls: list[GraphCall]
    shapes: list[Shape]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def graph_of(model: Any, input_shapes: Sequence[Shape] | None = None) -> Graph:
    """Returns the graph of a built Functional or Sequential model of either Keras.

    Args:
        model: The model.
        input_shapes: The shapes of its inputs where they are called with others than the model declares, such as those
            of images of a certain size. The shapes of all other tensors then follow from them.

    Raises:
        ValueError: If the model is a Sequential one of which Keras has made no graph.
    """
    model = _with_nodes(model)
    numbers: dict[int, int] = {}
    shapes: list[Shape] = []

    def number(tensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(shapes)
            shapes.append(tuple(tensor.shape))
        return numbers[id(tensor)]

    inputs = tuple(number(tensor) for tensor in keras.tree.flatten(model.inputs))
    if input_shapes is not None:
        shapes[:] = map(tuple, input_shapes)
    calls = []
    nodes = keras_internals.nodes_by_depth(model)
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            layer, taken, arguments, returned = _parts(node)
            names = _names(layer, arguments, {id(tensor) for tensor in taken})
            call = GraphCall(
                layer, tuple(map(number, taken)), tuple(map(number, returned)), names, tuple(taken), arguments
            )
            calls.append(call)
            if input_shapes is not None and not node.is_input:
                found = _inferred(node, taken, [shapes[i] for i in call.inputs])
                for output, shape in zip(call.outputs, found, strict=True):
                    shapes[output] = shape
    return Graph(calls, shapes, inputs, tuple(number(tensor) for tensor in keras.tree.flatten(model.outputs)))


def _with_nodes(model: Any) -> Any:
    """Returns the model that holds the nodes, which of a Sequential model of Keras 3 is another one."""
    graph = keras_internals.graph_with_nodes(model)
    if graph is None:
        raise ValueError(
            "Expected a Sequential model whose layers Keras can call on symbolic tensors, so that their shapes are "
            f"known. Received: {model.name!r}"
        )
    return graph


def _parts(node: Any) -> tuple[Any, Sequence, tuple, Sequence]:
    """Returns the layer, the input tensors, (args, kwargs) and the output tensors of a node of either Keras."""
    if keras_of(node) is keras:
        arguments = (node.arguments.args, node.arguments.kwargs)
        return node.operation, node.arguments.keras_tensors, arguments, node.outputs
    return node.layer, node.keras_inputs, (node.call_args, node.call_kwargs), keras.tree.flatten(node.outputs)


def _names(layer: Any, arguments: tuple, taken: set[int]) -> tuple[str, ...]:
    kinds = inspect.signature(unwrapped(layer).call).parameters.values()
    positional = [kind.name for kind in kinds if kind.kind is not inspect.Parameter.VAR_POSITIONAL]
    return tuple(
        place if is_keyword else "".join(positional[place : place + 1])
        for (is_keyword, place, *_), value in keras.tree.flatten_with_path(arguments)
        if id(value) in taken
    )


def _inferred(node: Any, tensors: Sequence, shapes: Sequence[Shape]) -> list[Shape]:
    """Returns the shapes of what a node returns, if what it takes has other shapes than the model declares."""
    if keras_of(node) is keras:
        inputs = {id(old): keras.KerasTensor(shape, old.dtype) for old, shape in zip(tensors, shapes)}
        args, kwargs = node.arguments.fill_in(inputs)
        outputs = node.operation.compute_output_spec(*args, **kwargs)
    else:

        @tf.function(autograph=False)
        def call(*values):
            inputs: dict[str, list[tf.Tensor]] = {}
            for old, value in zip(tensors, values):
                inputs.setdefault(str(id(old)), []).append(value)
            args, kwargs = node.map_arguments(inputs)
            return node.layer(*args, **kwargs)

        specs = [tf.TensorSpec(shape, old.dtype) for old, shape in zip(tensors, shapes)]
        outputs = call.get_concrete_function(*specs).structured_outputs
    return [tuple(output.shape) for output in keras.tree.flatten(outputs)]


def graphs_of(model: Any) -> tuple[dict[int, Graph], set[int]]:
    """Returns the graphs of all models inside a model, by their ids, and that of the model itself as the last.

    Also returns the ids of the layers that several of them call.
    """
    graphs: dict[int, Graph] = {}

    def visit(part):
        if id(part) not in graphs:
            graph = graph_of(part)
            for call in graph.calls:
                if is_graph(call.layer):
                    visit(call.layer)
            graphs[id(part)] = graph

    visit(model)
    count = collections.Counter(key for graph in graphs.values() for key in {id(call.layer) for call in graph.calls})
    return graphs, {key for key, number in count.items() if number > 1}
