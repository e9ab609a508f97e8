"""The layers of a graph with their calls, and the rule of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from force_tf.channels.rules import ChannelRule, channels, rule_for
from force_tf.models.graph import Graph, GraphCall

# What Keras tells layers about positions, in their arguments or by itself: tensors without channels.
_MASKS = {"mask", "query_mask", "value_mask", "key_mask", "attention_mask"}


@dataclasses.dataclass(frozen=True)
class RuledCall:
    """A call of a layer as the layer's rule sees it.

    Attributes:
        place: The place of the call in its graph.
        inputs: The numbers of the input tensors that the rule knows of.
        outputs: The numbers of the output tensors.
        whole: The numbers of the other input tensors, such as masks, that keep all their channels.
    """

    place: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    whole: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class CalledLayer:
    """A layer with those of its calls that have the same channels.

    They are all its calls where the layer has something of the size of its channels, such as weights. Any other, such
    as an activation, may be called on tensors that have nothing to do with each other: it is one for each call.

    Attributes:
        layer: The layer, in its wrapper if it has one.
        rule: What it does to channels.
        calls: The calls.
    """

    layer: Any
    rule: ChannelRule
    calls: tuple[RuledCall, ...]

    @property
    def input_slots(self) -> list[tuple[int, ...]]:
        """For each input of the layer, the numbers of its tensors in all calls."""
        return [*zip(*(call.inputs for call in self.calls), strict=True)]

    @property
    def output_slots(self) -> list[tuple[int, ...]]:
        """For each output of the layer, the numbers of its tensors in all calls."""
        return [*zip(*(call.outputs for call in self.calls), strict=True)]


def called_layers(graph: Graph, masked: bool, fixed: Collection[int] = ()) -> list[CalledLayer]:
    """Returns the layers of a graph in the order of their first calls.

    Args:
        graph: The graph of a model.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
        fixed: The ids of layers that other graphs call as well: those of a certain size are treated as if nothing were
            known of them.
    """
    by_layer: dict[int, list[tuple[int, GraphCall]]] = {}
    for place, call in enumerate(graph.calls):
        by_layer.setdefault(id(call.layer), []).append((place, call))
    found = []
    for key, numbered in by_layer.items():
        places, calls = zip(*numbered)
        layer = calls[0].layer
        rules = [rule_for(layer, masked, _shapes(graph, call), call) for call in calls]
        sized = any(rule.is_sized for rule in rules)
        if sized and (key in fixed or not _agree(rules)):
            rules = [ChannelRule(layer, None, rule.shapes) for rule in rules]
            sized = False
        ruled = [_ruled(*each) for each in zip(places, calls, rules)]
        parts = [(rules[0], tuple(ruled))] if sized else [(rule, (call,)) for rule, call in zip(rules, ruled)]
        found += [CalledLayer(layer, *part) for part in parts]
    return found


def _shapes(graph: Graph, call: GraphCall) -> tuple[Sequence, Sequence]:
    inputs = [number for number, name in zip(call.inputs, call.names, strict=True) if name not in _MASKS]
    return tuple([graph.shapes[number] for number in numbers] for numbers in (inputs, call.outputs))


def _ruled(place: int, call: GraphCall, rule: ChannelRule) -> RuledCall:
    takes = [rule.has_input_channels and name not in _MASKS for name in call.names]
    inputs, whole = (
        tuple(number for number, taken in zip(call.inputs, takes) if taken is wanted) for wanted in (True, False)
    )
    return RuledCall(place, inputs, call.outputs, whole)


def _agree(rules: Sequence[ChannelRule]) -> bool:
    """Returns whether all calls of a layer have the same rule and the same channels."""

    def form(rule):
        inputs = rule.input_shapes if rule.has_input_channels else ()
        return type(rule), *([channels(shape) for shape in shapes] for shapes in (inputs, rule.output_shapes))

    return all(form(rule) == form(rules[0]) for rule in rules)
