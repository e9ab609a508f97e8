"""`shrink_report`: what shrinking took away, layer by layer."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from force_tf.cost.flops import LayerCounts, UnknownSizeError, count_layers
from force_tf.layers import get_masks, is_pruned
from force_tf.models import prunable
from force_tf.models.graph import Graph, graph_of
from force_tf.models.keras_models import check_is_graph, check_model, check_same_keras, is_graph, is_layer, is_model
from force_tf.models.paths import layers_by_path, layers_of, split_path, unwrapped, walk_layers
from force_tf.models.weights import weight_variable
from force_tf.shrinking.analysis import analyses_of
from force_tf.support.tables import aligned


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """What shrinking made of a layer.

    Attributes:
        path: Its path: its name, with those of the models that it is in before it.
        kind: Its class.
        channels_before: How many channels it returned.
        channels_after: How many are left.
        parameters_before: The number of its weights, pruned or not.
        parameters_after: The number that is left.
        multiply_adds_before: What it took for one sample, zeros included; None if that is not known, because the layer
            is of an unknown kind or sizes of the inputs may vary.
        multiply_adds_after: What it takes now, or None.
    """

    path: str
    kind: str
    channels_before: int
    channels_after: int
    parameters_before: int
    parameters_after: int
    multiply_adds_before: int | None
    multiply_adds_after: int | None


@dataclasses.dataclass(frozen=True)
class ShrinkReport:
    """What `shrink` took away; prints as a few lines, and by `details()` with every layer.

    Multiply-adds are those of `count_flops`, for one sample; None where sizes of the inputs may vary.

    Attributes:
        model: The name of the model.
        layers: The layers that hold kernels or other weights of two axes or more, in the order of their calls.
        parameters_before: The number of weights, pruned or not, of all layers.
        parameters_after: The number that is left, zeros included.
        multiply_adds_before: Those of the model before, zeros included.
        multiply_adds_masked: Those of the model before that multiply by kept weights.
        multiply_adds_after: Those of the smaller model, zeros included.
        sparsity: The fraction of the prunable weights that was pruned before.
        effective_sparsity: The fraction of the prunable weights that is pruned, or was on a path that is gone.
        unknown: The classes of the layers that keep all their channels because `shrink` does not know them, by path.
        uncounted: The classes of the layers that no multiply-adds are counted of, by path.
    """

    model: str
    layers: tuple[LayerChange, ...]
    parameters_before: int
    parameters_after: int
    multiply_adds_before: int | None
    multiply_adds_masked: int | None
    multiply_adds_after: int | None
    sparsity: float
    effective_sparsity: float
    unknown: dict[str, str]
    uncounted: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dict of plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "layers": [dataclasses.asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        smaller = sum(each.channels_after < each.channels_before for each in self.layers)
        layers = f"{smaller} of {len(self.layers)} layers have fewer channels; `details()` lists them"
        notes = [f"{len(self.unknown)} kept whole, of unknown kinds"] if self.unknown else []
        notes += [f"multiply-adds of {len(self.uncounted)} are not counted"] if self.uncounted else []
        return "\n\n".join([self.model, self._totals(), "; ".join([layers, *notes])])

    def details(self) -> str:
        """Returns the whole report as text: what it prints, and a table of every layer."""
        parts = [self.model, self._totals(), self._layer_table()]
        for title, layers in (("Kept whole, of unknown kinds", self.unknown), ("Not counted", self.uncounted)):
            if layers:
                parts.append("\n".join([f"{title}:", *(f"  {path} ({kind})" for path, kind in layers.items())]))
        return "\n\n".join(parts)

    def _totals(self) -> str:
        channels = [sum(getattr(each, f"channels_{when}") for each in self.layers) for when in ("before", "after")]
        rows = [
            ("", "before", "after", "ratio"),
            _compared("channels", *channels),
            _compared("parameters", self.parameters_before, self.parameters_after),
            _compared("multiply-adds", self.multiply_adds_before, self.multiply_adds_after),
            ("  of kept weights", _number(self.multiply_adds_masked), "", ""),
            ("effective sparsity", f"{self.sparsity:.2%}", f"{self.effective_sparsity:.2%}", ""),
        ]
        return aligned(rows, "<>>>")

    def _layer_table(self) -> str:
        rows = [("layer", "kind", "channels", "", "parameters", "", "multiply-adds", "")]
        for each in self.layers:
            numbers = (
                (each.channels_before, each.channels_after),
                (each.parameters_before, each.parameters_after),
                (each.multiply_adds_before, each.multiply_adds_after),
            )
            cells = (cell for before, after in numbers for cell in (_number(before), f"-> {_number(after)}"))
            rows.append((each.path, each.kind, *cells))
        return aligned(rows, "<<><><><")


def shrink_report(before: keras.Model, after: keras.Model) -> ShrinkReport:
    """Compares a model with what `shrink` made of it.

    Args:
        before: The model that was shrunk, wrapped by `apply_masks` or plain; in a plain model, weights that are exactly
            zero are the pruned ones.
        after: What `shrink(before)` returned, trained or not, or that without its masks.

    Returns:
        A report. Print it for a table; `to_dict` returns its numbers, and `force_tf.plots.plot_channels` draws it.

    Raises:
        TypeError: If one of them is not a Keras model, or they are of different Kerases.
        ValueError: If one of them is not built or has no graph, or `after` does not come from `before`.

    Example:

    ```python
    pruned = force_tf.PruneAtInit("force", sparsity=0.99).prune(model, data)
    small = force_tf.shrink(pruned)
    print(force_tf.shrink_report(pruned, small))
    ```
    """
    for model in (before, after):
        check_model(model)
        check_is_graph(model)
    check_same_keras(before, after=after)
    old, new = _layers(before), _layers(after)
    _check_belongs(before, after, old, new)
    maskable = get_masks(before) if is_pruned(before) else [w.path for w in prunable.all_prunable_weights(before)]
    masks = _kept(before, maskable)
    paths = list(masks) if is_pruned(before) else [weight.path for weight in prunable.prunable_weights(before)[0]]
    total, kept = (sum(count(masks[path]) for path in paths) for count in (np.size, np.count_nonzero))
    left = sum(map(np.count_nonzero, _kept(after, paths).values()))
    dense, masked, small = (_counted(*what) for what in ((before, {}), (before, masks), (after, {})))
    return ShrinkReport(
        model=before.name,
        layers=tuple(_change(old[path], new[path], dense, small) for path in old),
        parameters_before=_parameters(before),
        parameters_after=_parameters(after),
        multiply_adds_before=_sum(dense),
        multiply_adds_masked=_sum(masked),
        multiply_adds_after=_sum(small),
        sparsity=float(1 - kept / total),
        effective_sparsity=float(1 - left / total),
        unknown=_unknown(before),
        uncounted=dense.unknown if dense else {},
    )


@dataclasses.dataclass(frozen=True)
class _Layer:
    path: str
    layer: Any
    channels: int


def _layers(model: Any) -> dict[str, _Layer]:
    """Returns the layers of a model, and of the models in it, with weights of two axes or more, in order of calls."""
    paths = _paths_by_id(model)
    found: dict[str, _Layer] = {}
    for graph in _graphs(model):
        for call in graph.calls:
            layer = unwrapped(call.layer)
            if is_layer(layer) and not is_graph(layer) and any(len(weight.shape) > 1 for weight in layer.weights):
                axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
                path = paths[id(layer)]
                found.setdefault(path, _Layer(path, layer, graph.shapes[call.outputs[0]][axis]))
    return found


def _graphs(model: Any) -> Iterator[Graph]:
    """Yields the graphs of a model and of the models in it."""
    yield (graph := graph_of(model))
    for call in graph.calls:
        if is_graph(call.layer):
            yield from _graphs(call.layer)


def _paths_by_id(model: Any) -> dict[int, str]:
    paths: dict[int, str] = {}
    for path, chain in walk_layers(model):
        paths.setdefault(id(chain[-1]), path)
    return paths


def _check_belongs(before: Any, after: Any, old: dict[str, _Layer], new: dict[str, _Layer]) -> None:
    difference = None
    for what in ("inputs", "outputs"):
        shapes = [[tuple(x.shape) for x in keras.tree.flatten(getattr(model, what))] for model in (before, after)]
        if shapes[0] != shapes[1]:
            difference = f"{what} of shapes {shapes[0]} and {shapes[1]}"
    for path in {**old, **new}:
        if path not in old or path not in new or type(old[path].layer) is not type(new[path].layer):
            difference = difference or f"a layer {path!r} that the other does not have"
        elif old[path].channels < new[path].channels:
            channels = f"{old[path].channels} and {new[path].channels} channels"
            difference = difference or f"a layer {path!r} of {channels}"
    if difference:
        raise ValueError(
            f"Expected `after` to be what `shrink` made of `before`. Received: {before.name!r} and {after.name!r}, "
            f"with {difference}"
        )


def _kept(model: Any, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns which weights are kept, by path: by the masks of a wrapped model, else those that are not zero."""
    masks = get_masks(model) if is_pruned(model) else {}
    layers = layers_by_path(model)

    def kept(path):
        if path in masks:
            return masks[path]
        layer_path, attribute = split_path(path)
        return np.asarray(weight_variable(layers[layer_path], attribute)) != 0

    return {path: kept(path) for path in paths}


def _counted(model: Any, masks: Mapping[str, np.ndarray]) -> LayerCounts | None:
    try:
        return count_layers(model, masks)
    except UnknownSizeError:
        return None


def _sum(counts: LayerCounts | None) -> int | None:
    return None if counts is None else sum(counts.layers.values())


def _change(old: _Layer, new: _Layer, dense: LayerCounts | None, small: LayerCounts | None) -> LayerChange:
    def multiply_adds(counts):
        if counts is None or old.path in counts.unknown:
            return None
        inside = (path == old.path or path.startswith(f"{old.path}/") for path in counts.layers)
        return sum(itertools.compress(counts.layers.values(), inside))

    return LayerChange(
        old.path,
        type(old.layer).__name__,
        *(each.channels for each in (old, new)),
        *(_size(each.layer.weights) for each in (old, new)),
        *map(multiply_adds, (dense, small)),
    )


def _parameters(model: Any) -> int:
    layers = layers_of(model)
    # The weights of a model inside would have the masks of its layers among them.
    return _size(weight for layer in layers if not is_model(layer) for weight in layer.weights)


def _size(weights: Iterable[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in {id(weight): weight for weight in weights}.values())


def _unknown(model: Any) -> dict[str, str]:
    paths = _paths_by_id(model)
    layers = [layer for analysis in reversed(analyses_of(model, is_pruned(model))) for layer in analysis.unknown]
    return {paths.get(id(layer), layer.name): type(layer).__name__ for layer in layers}


def _compared(name: str, before: int | None, after: int | None) -> tuple[str, ...]:
    return name, _number(before), _number(after), f"{before / after:.1f}x" if before and after else ""


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
