"""Which channels of a model must stay: the rules of its layers, applied until nothing changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from force_tf import prunable
from force_tf.graph import Graph, graph_of
from force_tf.keras_models import is_layer
from force_tf.layers import is_graph
from force_tf.layers.wrappers import masks_of
from force_tf.shrink import rules
from force_tf.shrink.rules import Cut, Rule, channels

_RULES: dict[str, type[Rule]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D"), rules.Affine),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), rules.Affine),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), rules.Depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), rules.Separable),
    **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"), rules.Elementwise),
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), rules.Passing),
    **dict.fromkeys(("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"), rules.Passing),
    **{f"{kind}Pooling{n}D": rules.Passing for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for n in "123"},
    **{f"{kind}{n}D": rules.Passing for kind in ("UpSampling", "Cropping") for n in "123"},
    **{f"ZeroPadding{n}D": rules.Padding for n in "123"},
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), rules.Merge),
    "BatchNormalization": rules.Normalized,
    "PReLU": rules.ParametricRelu,
    "Embedding": rules.Table,
    "Flatten": rules.Flattened,
    "RepeatVector": rules.Passing,
}


@dataclasses.dataclass
class _Shared:
    """A layer with all its calls."""

    layer: Any
    rule: Rule
    inputs: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    outputs: list[tuple[int, ...]] = dataclasses.field(default_factory=list)


class Analysis:
    """The channels of a model to keep.

    Args:
        model: A built Functional or Sequential model, wrapped or not.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.

    Attributes:
        constants: The constants of each tensor.
        kept: Which channels of each tensor must stay.
        unknown: The layers, by name, that keep all their channels because no rule knows them.
    """

    def __init__(self, model: Any, masked: bool):
        self.graph: Graph = graph_of(model)
        self._shared = self._rules(masked)
        self.unknown = {
            each.layer.name: type(each.layer).__name__
            for each in self._shared.values()
            if not each.rule.known and not _is_input(each.layer)
        }
        self.constants = self._find_constants()
        self.kept = [np.zeros(channels(shape), bool) for shape in self.graph.shapes]
        for output in self.graph.outputs:
            self.kept[output][:] = True
        self._spread()

    @property
    def collapsed(self) -> bool:
        """Whether an output of the model is the same for every input."""
        return any(not np.isnan(self.constants[output]).any() for output in self.graph.outputs)

    def cuts(self) -> dict[int, Cut]:
        """Returns the smaller form of each layer that has one, by the id of the layer without its wrapper."""
        found = {}
        for each in self._shared.values():
            inputs, outputs = (self._of(numbers[0], self.kept) for numbers in (each.inputs, each.outputs))
            if all(kept.all() for kept in (*inputs, *outputs)):
                continue
            cut = each.rule.cut(inputs, outputs, self._agreed(each))
            if cut is not None:
                found[id(each.rule.layer)] = cut
        return found

    def _rules(self, masked: bool) -> dict[int, _Shared]:
        shared: dict[int, _Shared] = {}
        for call in self.graph.calls:
            if id(call.layer) not in shared:
                shapes = tuple([self.graph.shapes[i] for i in numbers] for numbers in (call.inputs, call.outputs))
                shared[id(call.layer)] = _Shared(call.layer, _rule(call.layer, masked, shapes))
            shared[id(call.layer)].inputs.append(call.inputs)
            shared[id(call.layer)].outputs.append(call.outputs)
        return shared

    def _find_constants(self) -> list[np.ndarray]:
        constants = [np.full(channels(shape), np.nan) for shape in self.graph.shapes]
        for call in self.graph.calls:
            if not _is_input(call.layer):
                found = self._shared[id(call.layer)].rule.constants(self._of(call.inputs, constants))
                for output, values in zip(call.outputs, found, strict=True):
                    constants[output] = values
        return constants

    def _spread(self) -> None:
        """Marks what the rules ask for, until nothing changes, and a channel of every tensor at least."""
        while True:
            before = sum(int(kept.sum()) for kept in self.kept)
            for each in reversed(self._shared.values()):
                # A layer that is called several times has the same channels in all of its calls.
                slots = [*zip(*each.inputs), *zip(*each.outputs)]
                kept = [np.logical_or.reduce(self._of(numbers, self.kept)) for numbers in slots]
                count = len(each.inputs[0])
                if _is_input(each.layer):
                    kept[0][:] = True
                else:
                    each.rule.keep(kept[:count], kept[count:], self._agreed(each))
                for numbers, marks in zip(slots, kept):
                    for number in numbers:
                        self.kept[number] |= marks
            if before == sum(int(kept.sum()) for kept in self.kept):
                empty = [kept for kept in self.kept if not kept.any()]
                if not empty:
                    return
                for kept in empty:
                    kept[0] = True

    def _agreed(self, each: _Shared) -> list[np.ndarray]:
        """The constants of a layer's inputs that are the same in all of its calls."""
        agreed = []
        for numbers in zip(*each.inputs):
            values = np.stack(self._of(numbers, self.constants))
            agreed.append(np.where((values == values[0]).all(axis=0), values[0], np.nan))
        return agreed

    @staticmethod
    def _of(numbers, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [arrays[number] for number in numbers]


def _is_input(layer: Any) -> bool:
    return type(layer).__name__ == "InputLayer"


def _rule(layer: Any, masked: bool, shapes) -> Rule:
    inner = prunable.unwrapped(layer)
    masks = masks_of(layer) if inner is not layer else {}
    kind = _RULES.get(type(inner).__name__, Rule)
    if kind is rules.Affine and getattr(inner, "groups", 1) != 1:
        kind = rules.Grouped
    if is_graph(inner) or not _fits(kind, inner, shapes):
        kind = Rule
    name = type(inner).__name__
    if kind is rules.Merge and not is_layer(inner) and len(shapes[0]) != 2:
        kind = Rule  # an operation with a number
    if name == "Concatenate" and inner.axis in (-1, len(shapes[0][0]) - 1):
        kind = rules.Concatenated
    if name == "Reshape" and len(shapes[1][0]) > 1 and shapes[1][0][-1] == shapes[0][0][-1] is not None:
        kind = rules.Reshaped
    if name == "Permute" and inner.dims[-1] == len(inner.dims):
        kind = rules.Passing
    return kind(inner, masks if masked else None, shapes)


def _fits(kind: type[Rule], layer: Any, shapes) -> bool:
    """Returns whether a rule holds for this layer as it is configured."""
    if getattr(layer, "data_format", None) == "channels_first":
        return False
    if kind in (rules.Affine, rules.Grouped, rules.Depthwise, rules.Separable) and not _is_constant_function(
        layer.activation
    ):
        return False
    if kind is rules.Normalized:
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        return axis in (-1, len(shapes[0][0]) - 1)
    if kind is rules.Elementwise and type(layer).__name__ == "Activation":
        return _is_constant_function(layer.activation)
    if kind is rules.Flattened:
        return None not in shapes[1][0][1:] and len(shapes[0][0]) > 1
    return True


def _is_constant_function(activation: Any) -> bool:
    """Returns whether an activation looks at one number at a time."""
    return getattr(activation, "__name__", "") not in ("softmax", "log_softmax", "glu", "sparsemax")
