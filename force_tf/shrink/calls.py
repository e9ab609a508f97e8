"""The layers of a graph with all their calls, and the rule of each."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection
from typing import Any

from force_tf.graph import Call, Graph, graph_of
from force_tf.layers import is_graph
from force_tf.shrink.rules import Rule, rule_for


@dataclasses.dataclass
class LayerCalls:
    """A layer with all its calls.

    Attributes:
        layer: The layer, in its wrapper if it has one.
        rule: What it does to channels.
        inputs: The numbers of its input tensors in each call.
        outputs: The numbers of its output tensors in each call.
    """

    layer: Any
    rule: Rule
    inputs: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    outputs: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    @property
    def slots(self) -> list[tuple[int, ...]]:
        """For each input and then each output of the layer, the numbers of its tensors in all calls.

        They have the same channels, since the layer's weights are the same.
        """
        return [*zip(*self.inputs), *zip(*self.outputs)]


def layer_calls(graph: Graph, masked: bool, fixed: Collection[int] = ()) -> list[LayerCalls]:
    """Returns the layers of a graph in the order of their first calls.

    Args:
        graph: The graph of a model.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
        fixed: The ids of layers to treat as if nothing were known of them.
    """
    by_layer: dict[int, list[Call]] = {}
    for call in graph.calls:
        by_layer.setdefault(id(call.layer), []).append(call)
    found = []
    for key, calls in by_layer.items():
        layer = calls[0].layer
        shapes = tuple([graph.shapes[i] for i in numbers] for numbers in (calls[0].inputs, calls[0].outputs))
        rule = Rule(layer, None, shapes) if key in fixed else rule_for(layer, masked, shapes, calls)
        found.append(LayerCalls(layer, rule, [call.inputs for call in calls], [call.outputs for call in calls]))
    return found


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
