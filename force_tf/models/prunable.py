"""Which weights of which layer are prunable, and the paths they go by: the one place that knows."""

from __future__ import annotations

from typing import Any

from force_tf.models.keras_models import keras_classes
from force_tf.models.layer_selection import LayerSelection, selector
from force_tf.models.paths import sub_layers, walk_layers
from force_tf.models.weights import PrunableWeight, weight_variable

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
# Weights of custom layers, by class: see `register_prunable`.
_REGISTERED: dict[type, tuple[str, ...]] = {}


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
    if not (isinstance(layer_class, type) and any(cls.__name__ == "Layer" for cls in keras_classes(layer_class))):
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


def prunable_attributes(layer: Any) -> tuple[str, ...]:
    """Returns the names of a layer's own weights that are pruned by default, sub-layers aside."""
    for cls in type(layer).__mro__:
        if cls in _REGISTERED:
            return _REGISTERED[cls]
    if hasattr(layer, "get_prunable_weights"):
        wanted = {id(variable) for variable in layer.get_prunable_weights()}
        return tuple(name.lstrip("_") for name, value in vars(layer).items() if id(value) in wanted)
    return _attributes(layer, _PRUNABLE)


def _attributes(layer, table: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return next((table[cls.__name__] for cls in keras_classes(type(layer)) if cls.__name__ in table), ())


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
