"""tensorflow-model-optimization (tfmot): masks in its own wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.masks import Masks
from force_tf.models.keras_internals.tfmot import pruning_classes
from force_tf.models.paths import layers_by_path, mask_wrappers

PruneLowMagnitude, Pruning, PruningSchedule = pruning_classes()


def read_masks(wrapper: PruneLowMagnitude) -> dict[str, np.ndarray]:
    """Returns the masks of one of tfmot's own wrappers.

    Args:
        wrapper: A built `PruneLowMagnitude`.

    Returns:
        A dict that maps a weight's path relative to the wrapped layer to a boolean array of the weight's shape.
    """
    return {path: mask.numpy().astype(bool) for path, _, mask in _pruning_variables(wrapper)}


def set_masks(model: Any, masks: Mapping[str, Any]) -> None:
    """Sets the masks of a model that tfmot's `prune_low_magnitude` has wrapped, and makes its pruned weights zero.

    The masks stay until the model's pruning schedule changes them. tfmot's wrappers only train together with its
    callback `UpdatePruningStep`, and keep pruned weights at zero at the end of every epoch.

    Args:
        model: A Functional or Sequential model of tf_keras, changed in place.
        masks: `Masks`, or any mapping from the path of a weight in the unwrapped model to an array of booleans of the
            weight's shape. Weights without a mask keep the one that they have.

    Raises:
        ValueError: If the model has no weight of such a path and shape that tfmot prunes.

    Example:

    ```python
    import tensorflow_model_optimization as tfmot

    never = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=10**9)  # leaves the masks alone
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, never)
    force_tf.layers.tfmot.set_masks(pruned, masks)
    ```
    """
    masks = masks if isinstance(masks, Masks) else Masks(masks)
    known = {
        f"{path}/{relative}": (weight, mask)
        for path, wrapper in mask_wrappers(model)
        if not hasattr(type(wrapper), "masked_layer")
        for relative, weight, mask in _pruning_variables(wrapper)
    }
    for path, mask in masks.items():
        if path not in known or known[path][0].shape != mask.shape:
            shapes = ", ".join(f"{name} {tuple(weight.shape)}" for name, (weight, _) in known.items()) or "none"
            raise ValueError(
                f"Expected masks of weights that tfmot prunes in {model.name!r} ({shapes}). "
                f"Received: a mask of {path!r} of shape {mask.shape}"
            )
    for path, mask in masks.items():
        weight, variable = known[path]
        variable.assign(tf.cast(mask, variable.dtype))
        weight.assign(tf.where(mask, weight, tf.zeros_like(weight)))


def _pruning_variables(wrapper: PruneLowMagnitude) -> Iterator[tuple[str, tf.Variable, tf.Variable]]:
    """Yields (relative path, weight, mask) of every weight that a wrapper prunes."""
    owners = layers_by_path(wrapper.layer)
    paths = {
        id(value): f"{path}/{name}".lstrip("/")
        for path, owner in owners.items()
        for name, value in vars(owner).items()
        if isinstance(value, tf.Variable)
    }
    for weight, mask, _ in wrapper.pruning_vars:
        yield paths[id(weight)], weight, mask
