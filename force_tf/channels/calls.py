"""The layers of a graph with all their calls, and the rule of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from force_tf.channels.rules import ChannelRule, rule_for
from force_tf.models.graph import Graph, GraphCall


@dataclasses.dataclass
class CalledLayer:
    """A layer with all its calls.

    Attributes:
        layer: The layer, in its wrapper if it has one.
        rule: What it does to channels.
        inputs: The numbers of its input tensors in each call.
        outputs: The numbers of its output tensors in each call.
    """

    layer: Any
    rule: ChannelRule
    inputs: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    outputs: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    @property
    def slots(self) -> list[tuple[int, ...]]:
        """For each input and then each output of the layer, the numbers of its tensors in all calls.

        They have the same channels, since the layer's weights are the same.
        """
        return [*zip(*self.inputs), *zip(*self.outputs)]


def called_layers(graph: Graph, masked: bool, fixed: Collection[int] = ()) -> list[CalledLayer]:
    """Returns the layers of a graph in the order of their first calls.

    Args:
        graph: The graph of a model.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
        fixed: The ids of layers to treat as if nothing were known of them.
    """
    by_layer: dict[int, list[GraphCall]] = {}
    for call in graph.calls:
        by_layer.setdefault(id(call.layer), []).append(call)
    found = []
    for key, calls in by_layer.items():
        layer = calls[0].layer
        shapes = tuple([graph.shapes[i] for i in numbers] for numbers in (calls[0].inputs, calls[0].outputs))
        rule = ChannelRule(layer, None, shapes) if key in fixed else rule_for(layer, masked, shapes, calls)
        found.append(CalledLayer(layer, rule, [call.inputs for call in calls], [call.outputs for call in calls]))
    return found
