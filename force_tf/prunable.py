"""Which weights of which layer are prunable, and the paths they go by: the one place that knows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from force_tf.channels import output_axes
from force_tf.keras_models import is_model, keras_of
from force_tf.layer_selection import LayerSelection, selector

# Weights that are pruned unless `layers=` says otherwise: those that the papers prune.
_PRUNABLE = {
    "Dense": ("kernel",),
    "EinsumDense": ("kernel",),
    "Conv1D": ("kernel",),
    "Conv2D": ("kernel",),
    "Conv3D": ("kernel",),
    "Conv1DTranspose": ("kernel",),
    "Conv2DTranspose": ("kernel",),
    "Conv3DTranspose": ("kernel",),
    "SeparableConv1D": ("pointwise_kernel",),
    "SeparableConv2D": ("pointwise_kernel",),
    "SimpleRNNCell": ("kernel", "recurrent_kernel"),
    "LSTMCell": ("kernel", "recurrent_kernel"),
    "GRUCell": ("kernel", "recurrent_kernel"),
    "ConvLSTMCell": ("kernel", "recurrent_kernel"),
}
# Weights that join only when `layers=` selects their layer.
_OPT_IN = {
    "DepthwiseConv1D": ("kernel",),
    "DepthwiseConv2D": ("kernel",),
    "SeparableConv1D": ("depthwise_kernel",),
    "SeparableConv2D": ("depthwise_kernel",),
    "Embedding": ("embeddings",),
}
# Weights that the legacy tf_keras calls by another name than Keras 3, whose names the paths take.
_LEGACY_NAMES = {("DepthwiseConv1D", "kernel"): "depthwise_kernel", ("DepthwiseConv2D", "kernel"): "depthwise_kernel"}
# Layers that make their own cell. Keras 3 names the cell after its class; tf_keras numbers it anew in every layer.
_OWN_CELL = {
    "LSTM": "lstm_cell",
    "GRU": "gru_cell",
    "SimpleRNN": "simple_rnn_cell",
    "ConvLSTM": "conv_lstm_cell",
}
# Weights of custom layers, by class: see `register_prunable`.
_REGISTERED: dict[type, tuple[str, ...]] = {}


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """A weight tensor that may be pruned.

    Attributes:
        path: `layer/attribute`, with outer models and sub-layers before it.
        layers: The layers from the model's own child down to the one that holds the weight.
        layer_paths: The paths of `layers`, in which names of tf_keras's layers may hold slashes themselves.
        attribute: The name of the weight in that layer, such as "kernel".
        variable: The variable: a `keras.Variable`, or the `tf.Variable` of a tf_keras layer.
    """

    path: str
    layers: tuple[Any, ...]
    layer_paths: tuple[str, ...]
    attribute: str
    variable: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def input_axes(self) -> tuple[int, ...]:
        """The axes along which lie the inputs that one output sums: of a convolution the channels, not the window.

        A depthwise kernel has only its window to sum over. Where nothing is summed, as of a vector, they are all axes.
        """
        axes, outputs = range(len(self.shape)), output_axes(self.layers[-1], self.attribute)
        inputs = tuple(axis for axis in axes if axis - len(axes) not in outputs) or tuple(axes)
        einsum = any(cls.__name__ == "EinsumDense" for cls in type(self.layers[-1]).__mro__)
        return inputs if einsum or len(outputs) > 1 else inputs[-1:]


def register_prunable(layer_class: type, *attributes: str) -> None:
    """Declares weights of a custom layer, and of the classes derived from it, to be pruned.

    A layer may instead have a method `get_prunable_weights()` that returns the variables to prune, as custom layers for
    tensorflow-model-optimization do. What is registered goes before it.

    Args:
        layer_class: A subclass of `keras.layers.Layer` or `tf_keras.layers.Layer`.
        *attributes: Names of the attributes that hold the weights, each a variable of any shape made by `add_weight`.

    Raises:
        TypeError: If `layer_class` is no layer class, or an attribute no name.
        ValueError: If no attribute is given.

    Example:

    ```python
    class Scale(keras.layers.Layer):
        def build(self, input_shape):
            self.matrix = self.add_weight(shape=(input_shape[-1], 8))

        def call(self, inputs):
            return inputs @ self.matrix


    force_tf.register_prunable(Scale, "matrix")
    ```
    """
    if not (isinstance(layer_class, type) and any(cls.__name__ == "Layer" for cls in _keras_classes(layer_class))):
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}")
    if not attributes:
        raise ValueError(f"Expected the names of the weights to prune. Received: none for {layer_class.__name__}")
    if not all(isinstance(attribute, str) for attribute in attributes):
        raise TypeError(f"Expected names of attributes. Received: attributes={attributes!r}")
    _REGISTERED[layer_class] = attributes


def prunable_weights(model: Any, layers: LayerSelection = None) -> tuple[list[PrunableWeight], dict[str, str]]:
    """Finds the weights of a model to prune, in model order.

    Args:
        model: A built Keras model.
        layers: None for what is pruned by default; a name or regular expression or several (matched in full against a
            layer's name, its path, or a weight's path; a layer with sub-layers stands for all of them); a callable that
            takes a layer and says whether to prune it; or a `PruningPolicy` of tensorflow-model-optimization.

    Returns:
        The weights to prune, and a dict that maps the paths of all other prunable weights, and of layers with weights
        that cannot be pruned, to the reason.

    Raises:
        TypeError: If `layers` is of no such type.
        ValueError: If an entry of `layers` matches nothing or is no regular expression, or if nothing is left to prune.
    """
    weights, opt_in, left_out = _find_weights(model)
    is_selected = selector(layers, model, weights)
    selected = []
    for weight in weights:
        if weight.path in left_out:
            continue
        if is_selected is None:
            if weight.path in opt_in:
                left_out[weight.path] = "not pruned by default: select its layer with `layers=`"
                continue
        elif not is_selected(weight):
            left_out[weight.path] = "not selected by `layers`"
            continue
        selected.append(weight)
    if not selected:
        found = "; ".join(f"{path}: {reason}" for path, reason in left_out.items()) or "a model without weights"
        raise ValueError(f"Expected a model with at least one prunable weight. Received: {found}")
    order = {weight.path: position for position, weight in enumerate(weights)}
    return selected, dict(sorted(left_out.items(), key=lambda item: order.get(item[0], len(order))))


def all_prunable_weights(model: Any) -> list[PrunableWeight]:
    """Returns every weight for which a mask can be made, whatever is pruned by default, in model order."""
    weights, _, left_out = _find_weights(model)
    return [weight for weight in weights if weight.path not in left_out]


def _find_weights(model) -> tuple[list[PrunableWeight], set[str], dict[str, str]]:
    weights: list[PrunableWeight] = []
    opt_in: set[str] = set()
    left_out: dict[str, str] = {}
    seen: set[int] = set()
    paths: list[str] = []  # of the layers in the chain
    for path, chain in walk_layers(model):
        layer = chain[-1]
        paths[len(chain) - 1 :] = [path]
        default = prunable_attributes(layer)
        optional = _attributes(layer, _OPT_IN)
        for attribute in default + optional:
            variable = weight_variable(layer, attribute)
            if variable is None or id(variable) in seen:
                continue  # a layer that several models share: its weight has one path, the first
            seen.add(id(variable))
            weight = PrunableWeight(f"{path}/{attribute}", chain, tuple(paths), attribute, variable)
            weights.append(weight)
            if attribute in optional:
                opt_in.add(weight.path)
            reason = _unprunable_reason(layer, variable)
            if reason:
                left_out[weight.path] = reason
        if not default + optional and _own_weights(layer):
            left_out[path] = f"{type(layer).__name__} has no prunable weights"
    return weights, opt_in, left_out


def walk_layers(parent: Any, prefix: str = "", chain: tuple = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yields (path, layers from the top down to this one) of every layer below `parent`, outer layers first."""
    taken: set[str] = set()
    for layer in sub_layers(parent):
        plain = _name(layer, parent)
        name, number = plain, 0
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        path = f"{prefix}{name}"
        yield path, (*chain, layer)
        yield from walk_layers(layer, f"{path}/", (*chain, layer))


def sub_layers(layer: Any) -> list[Any]:
    """Returns the direct sub-layers of a layer or model, in the order in which they were added.

    A wrapper that only masks a layer shows itself as that layer, so paths are the same with and without masks.
    """
    layers = layer.layers if is_model(layer) else layer._flatten_layers(include_self=False, recursive=False)
    # In tf_keras a metric is a layer.
    return [unwrapped(sub) for sub in layers if not isinstance(sub, keras_of(sub).metrics.Metric)]


def unwrapped(layer: Any) -> Any:
    """Returns the layer that is masked, given a wrapper that only masks a layer, tfmot's among them; else `layer`."""
    if hasattr(type(layer), "masked_layer"):
        return layer.masked_layer
    return layer.layer if any(cls.__name__ == "PruneLowMagnitude" for cls in type(layer).__mro__) else layer


def wrappers(model: Any) -> list[tuple[str, Any]]:
    """Returns (path of the wrapped layer, wrapper) of every wrapper that masks a layer, in model order.

    One that is used several times has one path, the first.
    """
    by_layer = {id(unwrapped(layer)): layer for layer in model._flatten_layers() if unwrapped(layer) is not layer}
    return [(path, by_layer.pop(id(chain[-1]))) for path, chain in walk_layers(model) if id(chain[-1]) in by_layer]


def prunable_attributes(layer: Any) -> tuple[str, ...]:
    """Returns the names of a layer's own weights that are pruned by default, sub-layers aside."""
    for cls in type(layer).__mro__:
        if cls in _REGISTERED:
            return _REGISTERED[cls]
    if hasattr(layer, "get_prunable_weights"):
        wanted = {id(variable) for variable in layer.get_prunable_weights()}
        return tuple(name.lstrip("_") for name, value in vars(layer).items() if id(value) in wanted)
    return _attributes(layer, _PRUNABLE)


def weight_variable(layer: Any, attribute: str) -> Any | None:
    """Returns the variable of a layer's weight, or None if the layer has none."""
    slot = weight_slot(layer, attribute)
    return None if slot is None else vars(layer)[slot]


def weight_slot(layer: Any, attribute: str) -> str | None:
    """Returns the entry of `vars(layer)` that holds the variable of a weight, or None if the layer has none.

    Several Keras layers keep `kernel` in `_kernel`, and compute what the public property returns.
    """
    legacy = [_LEGACY_NAMES.get((cls.__name__, attribute), attribute) for cls in _keras_classes(type(layer))]
    for name in (attribute, f"_{attribute}", *legacy):
        if isinstance(vars(layer).get(name), (keras.Variable, tf.Variable)):
            return name
    return None


def _keras_classes(layer_class: type) -> list[type]:
    """The classes of either Keras that a layer class derives from, itself included."""
    return [cls for cls in layer_class.__mro__ if cls.__module__.partition(".")[0] in ("keras", "tf_keras")]


def _attributes(layer, table: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return next((table[cls.__name__] for cls in _keras_classes(type(layer)) if cls.__name__ in table), ())


def _name(layer, parent) -> str:
    if layer is not getattr(parent, "cell", None):
        return layer.name
    classes = (cls.__name__ for cls in _keras_classes(type(parent)))
    return next((_OWN_CELL[name] for name in classes if name in _OWN_CELL), layer.name)


def _own_weights(layer) -> bool:
    inner = {id(v) for sub in sub_layers(layer) for v in sub.variables}
    return any(id(v) not in inner for v in layer.weights)


def _unprunable_reason(layer, variable) -> str | None:
    if getattr(layer, "quantization_mode", None) is not None:
        return "quantized"
    if getattr(layer, "lora_enabled", False):
        return "has LoRA weights: merge them first"
    if not variable.trainable or not layer.trainable:
        return "frozen"
    return None
