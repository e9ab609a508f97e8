"""How many multiply-adds a model takes: of all its weights, or of those that masks keep."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from force_tf.cost.flops_rules import CountedCall, Part, UnknownSizeError, WeightUse, cost_rule
from force_tf.layers import get_masks, is_pruned
from force_tf.masks import Masks
from force_tf.models.graph import Graph, graph_of
from force_tf.models.keras_models import check_model, is_graph, is_layer
from force_tf.models.paths import layers_by_path, split_path, unwrapped, walk_layers
from force_tf.models.weights import weight_variable


def count_flops(model: keras.Model, masks: Mapping[str, Any] | None = None, *, sparse_kernels: bool = False) -> int:
    """Returns how many multiply-adds a model takes for one sample, in inference.

    One multiply-add counts once, as in papers on pruning; TensorFlow's profiler counts it as two operations. What is
    counted: the products with kernels (of dense layers, convolutions, recurrent cells and the projections of
    attention), and those of two tensors in attention, in the layer `Dot` and in `keras.ops.matmul`. Biases,
    normalization, activations, pooling and other work on single entries are not, nor is looking up an `Embedding`.
    Positions at a padded border count like all others. A layer that is called several times counts each time, a
    recurrent kernel at every step.

    Args:
        model: A built Functional or Sequential model of either Keras, whose inputs have a fixed size.
        masks: Masks of weights of the model: a pruned weight then takes no multiply-add. None: those of a model wrapped
            by `apply_masks`, else none. Weights without a mask count in full; with an empty mapping, all do.
        sparse_kernels: Whether to count what a phone takes that runs the file of `export_tflite(...,
            sparse_kernels=True)`: pruned weights save multiply-adds in the layers of `sparse_kernel_layers` alone, and
            only where more than two thirds of the weights of these are pruned. With masks None, the zeros of a model
            without wrappers count as pruned. The model is converted to find out, which takes some seconds.

    Returns:
        The number of multiply-adds. A runtime that multiplies by the zeros of a masked model takes those of the model
        without masks.

    Raises:
        TypeError: If `model` is not a Keras model, or `masks` are no masks.
        ValueError: If the model has no graph or the count depends on an input's size that may vary, or if the masks do
            not fit it.

    Warns:
        UserWarning: If layers with weights are not counted, because it is not known how often they use them. A subclass
            of a layer of Keras that has a `call` of its own is such a layer; `register_layer` tells what it computes.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, padding="same")])
    >>> count_flops(model)  # 8 * 8 positions, kernel of 3 * 3 * 3 * 4 weights
    6912
    """
    counted = count_layers(model, _seen_by_phones(model, masks) if sparse_kernels else masks)
    if counted.unknown:
        layers = ", ".join(f"{path} ({kind})" for path, kind in counted.unknown.items())
        warnings.warn(
            f"The multiply-adds of the model {model.name!r} do not include these layers, of unknown kinds: {layers}. "
            "`force_tf.register_layer` tells what they compute.",
            stacklevel=2,
        )
    return sum(counted.layers.values())


def takes_sparse_kernels(kept: int, size: int) -> bool:
    """Returns whether phones leave out the zeros of the weights that sparse kernels can take, `kept` of `size`."""
    return 3 * (size - kept) > 2 * size


def _seen_by_phones(model: Any, masks: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Returns the masks of the weights of which a phone leaves the zeros out."""
    from force_tf.export.sparse_layers import sparse_kernel_layers  # with what only an export needs

    check_model(model)
    paths = sparse_kernel_layers(model).paths
    layers = layers_by_path(model)
    if masks is None and is_pruned(model):
        masks = get_masks(model)
    found = {}
    for path in paths:
        layer, attribute = split_path(path)
        weight = weight_variable(layers[layer], attribute)
        if masks is None:
            found[path] = np.asarray(weight) != 0
        else:
            found[path] = np.asarray(masks[path]) if path in masks else np.ones(tuple(weight.shape), bool)
    kept, size = sum(int(np.sum(mask)) for mask in found.values()), sum(mask.size for mask in found.values())
    return found if takes_sparse_kernels(kept, size) else {}


@dataclasses.dataclass(frozen=True)
class LayerCounts:
    """The multiply-adds of a model.

    Attributes:
        layers: The multiply-adds of each layer, by its path.
        unknown: The classes of the layers that are not counted although they have weights, by their paths.
    """

    layers: dict[str, int]
    unknown: dict[str, str]


def count_layers(model: Any, masks: Mapping[str, Any] | None = None) -> LayerCounts:
    """Returns the multiply-adds of each layer, and which layers are not counted.

    Args:
        model: See `count_flops`.
        masks: See `count_flops`.

    Raises:
        UnknownSizeError: If the count depends on an input's size that may vary.
    """
    check_model(model)
    if not is_graph(model):
        raise ValueError(
            "Expected a Functional or Sequential model, whose graph says how often each layer is called. "
            f"Received: {model.name!r} of class {type(model).__name__}"
        )
    if masks is None:
        masks = get_masks(model) if is_pruned(model) else {}
    counter = _Counter(model, _kept_weights(model, masks))
    counter.count_graph(graph_of(model))
    return LayerCounts(counter.layers, counter.unknown)


@dataclasses.dataclass(frozen=True)
class WeightUses:
    """How the multiply-adds of a model are made up.

    Attributes:
        times: How many multiply-adds each entry of a weight takes for one sample, by the id of the variable.
        others: The multiply-adds that are not products with weights.
    """

    times: dict[int, int]
    others: int


def weight_uses(model: Any) -> WeightUses:
    """Returns how often a model uses each of its weights.

    Args:
        model: See `count_flops`.

    Raises:
        UnknownSizeError: If the count depends on an input's size that may vary.
    """
    counter = _Counter(model, {})
    counter.count_graph(graph_of(model))
    return WeightUses(counter.times, sum(counter.layers.values()) - counter.of_weights)


def _kept_weights(model: Any, masks: Mapping[str, Any]) -> dict[int, int]:
    """Returns how many weights are kept of each variable that has a mask, by its id."""
    if isinstance(masks, Mapping) and not masks:
        return {}
    masks = masks if isinstance(masks, Masks) else Masks(masks)
    layers = layers_by_path(model)
    kept = {}
    for path, mask in masks.items():
        layer_path, attribute = split_path(path)
        layer = layers.get(layer_path)
        variable = None if layer is None else weight_variable(layer, attribute)
        shape = None if variable is None else tuple(variable.shape)
        if shape != mask.shape:
            found = "no such weight" if shape is None else f"a weight of shape {shape}"
            raise ValueError(
                f"Expected masks for weights of the model {model.name!r}. "
                f"Received: a mask of shape {mask.shape} for {path!r}, where there is {found}"
            )
        kept[id(variable)] = int(np.count_nonzero(mask))
    return kept


class _Counter:
    """Adds up the multiply-adds of a model, layer by layer.

    Args:
        model: The model.
        kept: How many weights are kept of each variable that has a mask, by its id.
    """

    def __init__(self, model: Any, kept: Mapping[int, int]):
        self.layers: dict[str, int] = {}
        self.unknown: dict[str, str] = {}
        self.times: dict[int, int] = {}
        self.of_weights = 0
        self._model, self._kept = model, kept
        self._paths: dict[int, str] = {}
        for path, chain in walk_layers(model):
            self._paths.setdefault(id(chain[-1]), path)

    def count_graph(self, graph: Graph, times: int = 1) -> None:
        """Counts every call of a graph that is run `times` times."""
        for call in graph.calls:
            inputs, outputs = ([graph.shapes[i] for i in numbers] for numbers in (call.inputs, call.outputs))
            named = dict(zip(call.names, inputs))
            self._count(CountedCall(unwrapped(call.layer), inputs, outputs, named, times))

    def _count(self, call: CountedCall) -> None:
        layer = call.layer
        if is_graph(layer):
            varies = any(None in tensor.shape[1:] for tensor in keras.tree.flatten(layer.inputs))
            self.count_graph(graph_of(layer, call.inputs if varies else None), call.times)
            return
        rule = cost_rule(layer)
        if rule is None:
            if is_layer(layer) and layer.weights:
                self.unknown[self._path(layer)] = type(layer).__name__
            return
        try:
            parts = list(rule(call))
        except UnknownSizeError:
            raise UnknownSizeError(self._unknown_size(call)) from None
        for part in parts:
            self._add(part, call.times)

    def _add(self, part: Part, times: int) -> None:
        if isinstance(part, CountedCall):
            inner = unwrapped(part.layer)
            self._count(dataclasses.replace(part, layer=inner, times=times * part.times))
            return
        if isinstance(part, WeightUse):
            variable = weight_variable(part.layer, part.attribute)
            number = part.times * self._kept.get(id(variable), math.prod(variable.shape))
            self.times[id(variable)] = self.times.get(id(variable), 0) + times * part.times
            self.of_weights += times * number
        else:
            number = part.multiply_adds
        path = self._path(part.layer)
        self.layers[path] = self.layers.get(path, 0) + times * number

    def _path(self, layer: Any) -> str:
        return self._paths.get(id(layer), layer.name)

    def _unknown_size(self, call: CountedCall) -> str:
        tensors = keras.tree.flatten(self._model.inputs)
        varying = [f"{each.name!r} of shape {tuple(each.shape)}" for each in tensors if None in each.shape[1:]]
        return (
            "Expected a model whose inputs have fixed sizes, on which its multiply-adds depend: build it with the "
            f"sizes it will see. Received: {self._model.name!r} with inputs {', '.join(varying) or 'of fixed sizes'}, "
            f"whose layer {self._path(call.layer)!r} takes {', '.join(map(str, call.inputs))}"
        )
