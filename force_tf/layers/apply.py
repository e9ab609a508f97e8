"""Puts masks on a Keras 3 model, reads them back, and takes them off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from force_tf import keras_models, prunable
from force_tf.layers.keras3 import MaskedLayer
from force_tf.layers.rebuild import is_graph, rebuild
from force_tf.masks import Masks


def apply_masks(model: keras.Model, masks: Mapping[str, Any]) -> keras.Model:
    """Returns a copy of a model that computes and trains with its kept weights alone.

    Every layer with masked weights is wrapped in a `MaskedLayer` of the same name. Pruned weights and their gradients
    are exactly zero from then on, under every Keras optimizer, and in every file that is saved.

    The copy has the weights, names, dtype policies and `trainable` flags of the model, and is compiled like it with a
    new optimizer of the same configuration: momenta and step counts of a model that was trained before start anew. The
    model itself stays as it is.

    Args:
        model: A built Functional or Sequential Keras model. Models inside it may be nested to any depth.
        masks: `Masks`, or any mapping from a weight's path to an array of booleans (or of zeros and ones) of the
            weight's shape; True marks a kept weight. Every weight that is pruned by default needs a mask, unless the
            `Masks` say that it was left out.

    Returns:
        The wrapped model.

    Raises:
        TypeError: If `model` is not a Keras 3 model, or `masks` do not hold booleans.
        ValueError: If the model is not built, is wrapped already, cannot be rebuilt (as subclassed models cannot), or
            the masks do not fit it.

    Example:

    ```python
    masks = force_tf.PruneAtInit("snip", sparsity=0.9).find_masks(model, data)
    pruned = force_tf.apply_masks(model, masks)
    pruned.fit(x, y)
    ```
    """
    keras_models.check_model(model)
    if is_pruned(model):
        raise ValueError(f"Expected a model without masks: call strip_pruning first. Received: {model.name!r}")
    masks = masks if isinstance(masks, Masks) else Masks(masks)
    to_wrap = _masks_by_layer(model, masks)

    def wrap(layer, copy):
        if id(layer) not in to_wrap:
            return copy
        wrapper = MaskedLayer(copy, weights=to_wrap[id(layer)])
        wrapper.sub_layer_names = tuple(chain[-1].name for _, chain in prunable.walk_layers(layer))
        return wrapper

    pruned = rebuild(model, replacement=wrap)
    for path, wrapper in _wrappers(pruned):
        wrapper.set_masks({weight.path: masks[f"{path}/{weight.path}"] for weight in wrapper.masked_weights})
    return pruned


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns a copy of a wrapped model without the wrappers: the plain architecture, with zeros in place.

    Args:
        model: A model made by `apply_masks`.

    Returns:
        A model with the original layers and layer names, the weights θ⊙m, and compiled like `model` with a new
        optimizer of the same configuration. Nothing keeps the zeros when it is trained further.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If `model` is not wrapped.

    Example:

    ```python
    force_tf.strip_pruning(pruned).save("plain.keras")  # loads without force_tf
    ```
    """
    masks = get_masks(model)
    plain = rebuild(model, original=lambda layer: getattr(layer, "masked_layer", layer))
    for weight in prunable.all_prunable_weights(plain):
        if weight.path in masks:
            weight.variable.assign(keras.ops.where(masks[weight.path], weight.variable, 0.0))
    return plain


def get_masks(model: keras.Model) -> Masks:
    """Returns the masks of a wrapped model, in model order, under the paths of the unwrapped model.

    Args:
        model: A model made by `apply_masks`.

    Returns:
        `Masks` that fit the model with or without wrappers. Prunable weights without a mask stand in `left_out`.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If `model` is not wrapped.

    Example:

    ```python
    get_masks(apply_masks(model, masks)) == masks  # True
    ```
    """
    keras_models.check_model(model)
    if not is_pruned(model):
        raise ValueError(f"Expected a model wrapped by apply_masks. Received: {model.name!r}, which has no masks.")
    found = {
        f"{path}/{relative}": mask
        for path, wrapper in _wrappers(model)
        for relative, mask in wrapper.get_masks().items()
    }
    left_out = {
        weight.path: "not masked" for weight in prunable.all_prunable_weights(model) if weight.path not in found
    }
    return Masks(found, left_out=left_out)


def is_pruned(model: Any) -> bool:
    """Returns whether any layer of a model is a `MaskedLayer`.

    Args:
        model: A Keras 3 model.
    """
    return any(isinstance(layer, MaskedLayer) for layer in model._flatten_layers())


def _masks_by_layer(model, masks: Masks) -> dict[int, list[str]]:
    """Maps the id of each layer of the graph to wrap to the relative paths of its weights to mask.

    Raises:
        ValueError: If the masks do not fit the model.
    """
    required, _ = prunable.prunable_weights(model)
    required = {weight.path for weight in required}
    weights = prunable.all_prunable_weights(model)
    shapes = {weight.path: weight.shape for weight in weights if weight.path in masks or weight.path in required}
    difference = masks.first_difference(shapes)
    if difference:
        raise ValueError(f"Expected masks for this model. Received masks that differ: {difference}")
    to_wrap: dict[int, list[str]] = {}
    for weight in weights:
        if weight.path in masks:
            depth = next(depth for depth, layer in enumerate(weight.layers) if not is_graph(layer))
            relative = weight.path.split("/", depth + 1)[-1]
            to_wrap.setdefault(id(weight.layers[depth]), []).append(relative)
    return to_wrap


def _wrappers(model) -> list[tuple[str, MaskedLayer]]:
    """Returns (path, wrapper) in model order; a wrapper that is used several times has one path, the first."""
    by_layer = {id(layer.layer): layer for layer in model._flatten_layers() if isinstance(layer, MaskedLayer)}
    return [
        (path, by_layer.pop(id(chain[-1]))) for path, chain in prunable.walk_layers(model) if id(chain[-1]) in by_layer
    ]
