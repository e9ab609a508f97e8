"""Which weights of which layer are prunable, and the paths they go by: the one place that knows."""

from __future__ import annotations

from typing import Any

from force_tf.models.layer_kinds import kind_of, registered
from force_tf.models.layer_selection import LayerSelection, selector
from force_tf.models.paths import sub_layers, walk_layers
from force_tf.models.weights import PrunableWeight, weight_variable


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
        optional = tuple(name for name in kind_of(layer).opt_in if name not in default)
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
    if registered(layer, "prunable") is None and hasattr(layer, "get_prunable_weights"):
        wanted = {id(variable) for variable in layer.get_prunable_weights()}
        return tuple(name.lstrip("_") for name, value in vars(layer).items() if id(value) in wanted)
    return kind_of(layer).prunable


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
