"""Which channels of a model must stay: the rules of its layers, applied until nothing changes."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.channels.calls import CalledLayer, called_layers
from force_tf.channels.rules import Cut, channels
from force_tf.models.graph import Graph, graphs_of
from force_tf.models.keras_models import is_graph, is_layer
from force_tf.models.layer_kinds import is_kind


class Analysis:
    """The channels of a graph to keep.

    Args:
        graph: The graph of a built model, wrapped or not.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
        fixed: The ids of layers that stay as they are.
        inner: What is known of the models inside, by their ids.

    Attributes:
        constants: The constants of each tensor.
        kept: Which channels of each tensor must stay.
        unknown: The layers, without their wrappers, that keep all their channels because no rule knows them.
    """

    def __init__(
        self,
        graph: Graph,
        masked: bool,
        fixed: Collection[int] = (),
        inner: Mapping[int, Analysis] | None = None,
    ):
        self.graph = graph
        self._inner = inner or {}
        self._layers = called_layers(graph, masked, fixed)
        self.unknown = [each.rule.layer for each in self._layers if self._is_unknown(each)]
        self.constants = self._find_constants()
        self.kept = [np.zeros(channels(shape), bool) for shape in graph.shapes]
        whole = (number for each in self._layers for call in each.calls for number in call.whole)
        for number in (*graph.outputs, *whole):
            self.kept[number][:] = True
        self._spread()

    @property
    def collapsed(self) -> bool:
        """Whether an output of the model is the same for every input."""
        return any(not np.isnan(self.constants[output]).any() for output in self.graph.outputs)

    def cuts(self) -> dict[int, Cut]:
        """Returns the smaller form of each layer that has one, by the id of the layer without its wrapper."""
        found = {}
        for each in self._layers:
            inputs, outputs = (_of(numbers, self.kept) for numbers in (each.calls[0].inputs, each.calls[0].outputs))
            if all(kept.all() for kept in (*inputs, *outputs)) and not each.rule.has_inner_channels:
                continue
            cut = each.rule.cut(inputs, outputs, self._agreed(each))
            if cut is not None:
                found[id(each.rule.layer)] = cut
        return found

    def _is_unknown(self, each: CalledLayer) -> bool:
        if each.rule.known or is_graph(each.layer) or is_kind(each.layer, "InputLayer"):
            return False
        # Operations on tokens, such as those by which Keras finds out what to mask, have no channels to keep.
        tensors = (tensor for call in each.calls for tensor in self.graph.calls[call.place].tensors)
        return is_layer(each.layer) or any(tf.as_dtype(tensor.dtype).is_floating for tensor in tensors)

    def _find_constants(self) -> list[np.ndarray]:
        constants = [np.full(channels(shape), np.nan) for shape in self.graph.shapes]
        calls = {call.place: (call, each) for each in self._layers for call in each.calls}
        for _, (call, each) in sorted(calls.items()):
            model = self._inner.get(id(each.layer))
            if model is None:
                found = each.rule.constants(_of(call.inputs, constants))
            else:
                found = _of(model.graph.outputs, model.constants)
            for output, values in zip(call.outputs, found, strict=True):
                constants[output] = values
        return constants

    def _spread(self) -> None:
        """Marks what the rules ask for, until nothing changes, and a channel of every tensor at least."""
        while True:
            before = sum(int(kept.sum()) for kept in self.kept)
            for each in reversed(self._layers):
                slots = each.input_slots, each.output_slots
                kept = [[np.logical_or.reduce(_of(numbers, self.kept)) for numbers in side] for side in slots]
                each.rule.mark_needed(*kept, self._agreed(each))
                for numbers, marks in zip(itertools.chain(*slots), itertools.chain(*kept), strict=True):
                    for number in numbers:
                        self.kept[number] |= marks
            if before == sum(int(kept.sum()) for kept in self.kept):
                empty = [kept for kept in self.kept if not kept.any()]
                if not empty:
                    return
                for kept in empty:
                    kept[0] = True

    def _agreed(self, each: CalledLayer) -> list[np.ndarray]:
        """The constants of a layer's inputs that are the same in all of its calls."""
        agreed = []
        for numbers in each.input_slots:
            values = np.stack(_of(numbers, self.constants))
            agreed.append(np.where((values == values[0]).all(axis=0), values[0], np.nan))
        return agreed


def analyses_of(model: Any, masked: bool) -> list[Analysis]:
    """Returns the analyses of a built model and of all models inside it, its own as the last.

    Args:
        model: A built Functional or Sequential model, wrapped or not.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
    """
    graphs, shared = graphs_of(model)
    found: dict[int, Analysis] = {}
    for key, graph in graphs.items():
        found[key] = Analysis(graph, masked, shared, found)
    return list(found.values())


def _of(numbers: Iterable[int], arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [arrays[number] for number in numbers]
