"""The layers below a model or layer, and the paths they go by, the same in both Kerases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from force_tf.models import keras_internals
from force_tf.models.keras_models import is_model, keras_of
from force_tf.models.layer_kinds import kind_of


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
    layers = (
        layer.layers if is_model(layer) else keras_internals.inner_layers(layer, include_self=False, recursive=False)
    )
    # In tf_keras a metric is a layer.
    return [unwrapped(sub) for sub in layers if not isinstance(sub, keras_of(sub).metrics.Metric)]


def layers_of(parent: Any) -> list[Any]:
    """Returns every layer below a model or layer, outer layers before the layers in them."""
    return [chain[-1] for _, chain in walk_layers(parent)]


def layers_by_path(layer: Any) -> dict[str, Any]:
    """Maps the relative path of a layer itself ("") and of every layer in it to the layer."""
    return {"": layer, **{path: chain[-1] for path, chain in walk_layers(layer)}}


def split_path(path: str) -> tuple[str, str]:
    """Returns the path of the layer that holds a weight ("" for the layer itself) and the name of the weight in it."""
    owner, _, attribute = path.rpartition("/")
    return owner, attribute


def unwrapped(layer: Any) -> Any:
    """Returns the layer that is masked, given a wrapper that only masks a layer, tfmot's among them; else `layer`."""
    if hasattr(type(layer), "masked_layer"):
        return layer.masked_layer
    return layer.layer if any(cls.__name__ == "PruneLowMagnitude" for cls in type(layer).__mro__) else layer


def mask_wrappers(model: Any) -> list[tuple[str, Any]]:
    """Returns (path of the wrapped layer, wrapper) of every wrapper that masks a layer, in model order.

    One that is used several times has one path, the first.
    """
    layers = keras_internals.inner_layers(model)
    by_layer = {id(unwrapped(layer)): layer for layer in layers if unwrapped(layer) is not layer}
    return [(path, by_layer.pop(id(chain[-1]))) for path, chain in walk_layers(model) if id(chain[-1]) in by_layer]


def _name(layer, parent) -> str:
    if layer is not getattr(parent, "cell", None):
        return layer.name
    return kind_of(parent).cell or layer.name
