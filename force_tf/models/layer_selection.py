"""What users mean by `layers=`: names, regular expressions, a callable, or a policy of tfmot."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from force_tf.models.paths import split_path

if TYPE_CHECKING:
    from force_tf.models.weights import PrunableWeight

LayerSelection = str | Iterable[str] | Callable[[Any], bool] | None


def selector(
    layers: LayerSelection, model: Any, weights: Sequence[PrunableWeight]
) -> Callable[[PrunableWeight], bool] | None:
    """Returns a function that says whether a weight is selected, or None if all that is pruned by default is.

    Args:
        layers: None; a name or regular expression or several (matched in full against a layer's name, its path, or a
            weight's path; a layer with sub-layers stands for all of them); a callable that takes a layer and says
            whether to prune it; or a `PruningPolicy` of tensorflow-model-optimization.
        model: The model, which a policy may refuse.
        weights: All weights of the model that can be pruned.

    Raises:
        TypeError: If `layers` is of no such type.
        ValueError: If an entry of `layers` matches nothing or is no regular expression.
    """
    if hasattr(layers, "allow_pruning"):  # a PruningPolicy
        layers.ensure_model_supports_pruning(model)
        layers = layers.allow_pruning
    if layers is None:
        return None
    if callable(layers):
        return lambda weight: any(layers(layer) for layer in weight.layers)
    patterns = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else None
    if patterns is None or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            "Expected `layers` to be None, layer names or regular expressions, or a callable that takes a layer. "
            f"Received: layers={layers!r}"
        )
    if not patterns:
        raise ValueError("Expected `layers` to name at least one layer, or None for all. Received: an empty list.")
    names = {weight.path: _names(weight) for weight in weights}
    for pattern in patterns:
        if not any(_matches(pattern, name) for options in names.values() for name in options):
            known = sorted({split_path(weight.path)[0] for weight in weights})
            close = difflib.get_close_matches(pattern, known, n=1) or known[:8]
            raise ValueError(
                f"Expected every entry of `layers` to match a layer with prunable weights, such as {', '.join(close)}. "
                f"Received: {pattern!r}, which matches none."
            )
    return lambda weight: any(_matches(pattern, name) for pattern in patterns for name in names[weight.path])


def _names(weight: PrunableWeight) -> set[str]:
    """What a pattern may match: the weight's path, and the path and the name of each layer around it."""
    parts = weight.path.split("/")
    paths = {"/".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return paths | {layer.name for layer in weight.layers}


def _matches(pattern: str, name: str) -> bool:
    if pattern == name:
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ValueError(
            f"Expected layer names or regular expressions in `layers` ({error}). Received: {pattern!r}"
        ) from None
