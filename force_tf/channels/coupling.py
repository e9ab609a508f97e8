"""Which channels of a model stay or go together, and which weights go with them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from force_tf.channels.calls import called_layers
from force_tf.channels.rules import PINNED, ChannelRule, channels
from force_tf.models.graph import graphs_of
from force_tf.models.weights import PrunableWeight


@dataclasses.dataclass(frozen=True)
class Coupling:
    """The channels of a model, in groups that stay or go as a whole, such as those that a residual sum ties.

    Groups have numbers from 1, in the order of the weights. The number 0 stands for all channels that must stay.

    Attributes:
        places: For each weight, arrays of groups that spread to its shape. The first tells of which group's output
            channel an entry is a part. An entry is of use only while all of its groups stay.
        widths: For each group, the number of its width. A width has the output channels of a weight, and those of all
            weights that are tied to it.
    """

    places: Sequence[tuple[np.ndarray, ...]]
    widths: np.ndarray

    def used(self, index: int, stays: np.ndarray) -> np.ndarray:
        """Returns which entries of a weight are of use, as booleans that spread to its shape.

        Args:
            index: The number of the weight.
            stays: For each group, whether it stays.
        """
        return functools.reduce(np.logical_and, (stays[place] for place in self.places[index]))


def coupling_of(model: Any, weights: Sequence[PrunableWeight]) -> Coupling:
    """Returns which channels of a model can be removed by pruning, and together with which others.

    A channel can be removed if one of the weights makes it, and all that read it do so through others of them. The
    inputs and outputs of the model, and of models inside it, stay, and so do the channels of layers that no rule knows,
    or whose weights are not among those to prune.

    Args:
        model: A built Functional or Sequential model, without masks.
        weights: Those of its prunable weights that are to be pruned.
    """
    graphs, shared = graphs_of(model)
    layers = [(graph, each) for graph in graphs.values() for each in called_layers(graph, masked=True, fixed=shared)]
    rules = {id(each.rule.layer): each.rule for _, each in layers}  # one of a layer's, where it has nothing to cut
    owned = [_owner(weight, rules) for weight in weights]
    attributes: dict[int, list[str]] = {}
    for rule, attribute in owned:
        attributes.setdefault(id(rule), []).append(attribute)

    nodes = _Nodes()
    tensors = {id(graph): [nodes.new(channels(shape)) for shape in graph.shapes] for graph in graphs.values()}
    labeled = {
        id(each.rule): _nodes_of_labels(each.rule, attributes.get(id(each.rule), ()), nodes) for _, each in layers
    }
    for graph, each in layers:
        slots = [*each.input_slots, *each.output_slots]
        for numbers, own in zip(slots, itertools.chain(*each.rule.ties()), strict=True):
            for number in numbers:
                nodes.tie(tensors[id(graph)][number], labeled[id(each.rule)][own])
        for number in (number for call in each.calls for number in call.whole):
            nodes.tie(tensors[id(graph)][number], PINNED)
    for graph in graphs.values():
        for output in graph.outputs:
            nodes.tie(tensors[id(graph)][output], PINNED)
    roots = nodes.roots()
    places = [tuple(roots[labeled[id(rule)][own]] for own in rule.places(name)) for rule, name in owned]
    return _numbered(places)


def _owner(weight: PrunableWeight, rules: Mapping[int, ChannelRule]) -> tuple[ChannelRule, str]:
    """Returns the rule of the layer of a graph that a weight is in, and the weight's path relative to that layer."""
    depth = max(depth for depth, layer in enumerate(weight.layers) if id(layer) in rules)
    return rules[id(weight.layers[depth])], weight.path.removeprefix(f"{weight.layer_paths[depth]}/")


def _nodes_of_labels(rule: ChannelRule, attributes: Sequence[str], nodes: _Nodes) -> np.ndarray:
    """Returns a node for every label that a rule gives; all are the one that stays if the layer is not to be cut."""
    found = [*itertools.chain(*rule.ties()), *itertools.chain(*map(rule.places, attributes))]
    count = max(int(own.max(initial=PINNED)) for own in found)
    if not set(rule.readers) <= set(attributes):
        return np.full(1 + count, PINNED)
    return np.concatenate([[PINNED], nodes.new(count)])


def _numbered(places: Sequence[tuple[np.ndarray, ...]]) -> Coupling:
    """Numbers the groups that weights make; the others stay."""
    made = np.concatenate([first.ravel() for first, *_ in places])
    roots, firsts = np.unique(made, return_index=True)
    ordered = roots[np.argsort(firsts)]
    ordered = ordered[ordered != PINNED]
    number = np.zeros(1 + max(int(place.max()) for each in places for place in each), np.int64)
    number[ordered] = 1 + np.arange(ordered.size)
    places = [tuple(number[place] for place in each) for each in places]
    widths = _Nodes()
    widths.new(ordered.size)
    for first, *_ in places:
        made = first[first != PINNED]
        widths.tie(made[:-1], made[1:])
    return Coupling(places, widths.roots())


class _Nodes:
    """Things that are tied to each other; the node 0 stays."""

    def __init__(self):
        self._count = 1
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []

    def new(self, count: int) -> np.ndarray:
        """Returns new nodes."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def tie(self, nodes: np.ndarray, others: np.ndarray | int) -> None:
        self._ties.append(tuple(map(np.ravel, np.broadcast_arrays(nodes, others))))

    def roots(self) -> np.ndarray:
        """Returns for each node the first of those that it is tied to, directly or through others."""
        roots = np.arange(self._count)
        ties = np.concatenate([np.stack(tie) for tie in self._ties], axis=1) if self._ties else np.empty((2, 0), int)
        while True:
            least = roots[ties].min(axis=0)
            before = roots.copy()
            for side in ties:
                np.minimum.at(roots, side, least)
            roots = roots[roots]
            if (roots == before).all():
                return roots
