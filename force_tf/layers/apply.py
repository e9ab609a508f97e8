"""Puts masks on a model, reads them back, and takes them off."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from force_tf.layers import in_place
from force_tf.layers.keras3 import refuse_quantize
from force_tf.layers.masking import masked, paths_by_layer
from force_tf.layers.wrappers import masks_of, wrapper_class
from force_tf.masks import Masks
from force_tf.models import keras_internals, keras_models, prunable
from force_tf.models.keras_models import NotCopyableError, is_graph, keras_of
from force_tf.models.paths import layers_of, mask_wrappers, unwrapped
from force_tf.models.rebuild import Change, rebuild
from force_tf.models.weights import PrunableWeight


def apply_masks(model: keras.Model, masks: Mapping[str, Any] | None = None) -> keras.Model:
    """Returns a model that computes and trains with its kept weights alone: a copy, or itself where none is possible.

    Every layer with masked weights is wrapped in a `MaskedLayer` of the same name. Pruned weights and their gradients
    are exactly zero from then on, under every Keras optimizer, and in every file that is saved.

    Of a Functional or Sequential model the result is a copy. It has the weights, names, dtype policies and `trainable`
    flags of the model, and is compiled like it with a new optimizer of the same configuration: momenta and step counts
    of a model that was trained before start anew. The model itself stays as it is.

    A model that Keras cannot copy is wrapped in place, and returned: subclassed models, and graphs of layers without a
    `get_config` or of a class with a constructor of its own (these with a warning). Wrappers then stand where the model
    refers to the layers, in attributes and what those hold: containers, partials, bound methods, closures, objects of
    the user's classes, functions under `tf.function`, also inside the user's own layers and models in it. They show
    the attributes of the layers. The model stays compiled, with its optimizer. `strip_pruning` undoes it. A model whose
    code calls a layer by a global variable, an attribute of its class or a closure of a method is refused; trace
    functions outside of the model (`tf.function`) after wrapping.

    Args:
        model: A built model of Keras 3, or of the legacy tf_keras (which takes tensorflow-model-optimization; see
            `force_tf.layers.tf_keras`). Models inside it may be nested to any depth.
        masks: `Masks`, or any mapping from a weight's path to an array of booleans (or of zeros and ones) of the
            weight's shape; True marks a kept weight. Every weight that is pruned by default needs a mask, unless the
            `Masks` say that it was left out. None keeps all weights that are pruned by default, ready for masks that
            move while the model trains (`force_tf.callbacks.PruneDuringTraining`).

    Returns:
        The wrapped model. If it is `model` itself, it is of a class derived from its own until it is stripped, which
        brings the masks into `.keras` files.

    Raises:
        TypeError: If `model` is not a Keras model, or `masks` do not hold booleans.
        ValueError: If the model is not built or is wrapped already, the masks do not fit it, or its code would call a
            layer past its wrapper.
        ImportError: If `model` is of tf_keras, and tensorflow-model-optimization is not installed.

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
    if masks is None:
        masks = _all_kept(model)
    masks = masks if isinstance(masks, Masks) else Masks(masks)
    weights = _masked_weights(model, masks)
    pruned = _wrapped_copy(model, weights) if is_graph(model) else None
    if pruned is None:
        in_place.wrap(model, in_place.layers_to_wrap(model, weights))
        pruned = model
    if pruned is not model and keras_of(model) is keras:
        refuse_quantize(pruned)
    try:
        _set_masks(pruned, masks)
    except BaseException:
        if pruned is model:
            in_place.unwrap(model)
        raise
    if pruned is model:  # with an optimizer that may have trained it
        in_place.forget_pruned(model)
    return pruned


def changed_copy(model: Any, masks: Masks, changes: Mapping[int, Change]) -> Any:
    """Returns a copy of a wrapped model with changed layers, wrapped as it is.

    Args:
        model: A wrapped model.
        masks: Those of the copy, of the sizes that its weights have then.
        changes: How to change the copies of layers, by the ids of the layers without their wrappers.

    Raises:
        NotCopyableError: If the model, or a layer in it, cannot be rebuilt.
    """
    weights = [weight for weight in prunable.all_prunable_weights(model) if weight.path in masks]
    copy = rebuild(model, original=unwrapped, replacement=_wrapping(model, weights), changes=changes)
    if keras_of(model) is keras:
        refuse_quantize(copy)
    _set_masks(copy, masks)
    return copy


def _all_kept(model: Any) -> Masks:
    weights, left_out = prunable.prunable_weights(model)
    return Masks({weight.path: np.ones(weight.shape, bool) for weight in weights}, left_out=left_out)


def _set_masks(pruned: Any, masks: Masks) -> None:
    """Sets the masks of a wrapped model, and raises unless it then holds the very masks that it was given."""
    for path, wrapper in mask_wrappers(pruned):
        wrapper.place_masks({weight.path: masks[f"{path}/{weight.path}"] for weight in wrapper.masked_weights})
    placed = get_masks(pruned)
    lost = [path for path in masks if path not in placed or not np.array_equal(placed[path], masks[path])]
    if lost:
        raise RuntimeError(
            "Expected each mask to come to its weight, and the model would train without some: please report it, with "
            f"the model and the versions of Keras ({keras.__version__}) and TensorFlow. Received: no wrapper with the "
            f"masks of {', '.join(lost)} in {pruned.name!r}"
        )


def _wrapping(model: Any, weights: list[PrunableWeight]) -> Callable[[Any, Any], Any]:
    """Returns what, given a layer of the graph and a copy of it, returns the copy in a wrapper if it holds weights."""
    to_wrap = paths_by_layer(weights, is_graph)

    def wrap(layer, copy):
        if id(layer) not in to_wrap:
            return copy
        wrapper = wrapper_class(model)(copy, weights=to_wrap[id(layer)])
        wrapper.sub_layer_names = tuple(inner.name for inner in layers_of(layer))
        return wrapper

    return wrap


def _wrapped_copy(model, weights: list[PrunableWeight]) -> keras.Model | None:
    """Returns a copy with wrappers around the layers of its graph, or None, with a warning, if it cannot be copied."""
    try:
        return rebuild(model, replacement=_wrapping(model, weights))
    except NotCopyableError as error:
        warnings.warn(
            "Until `strip_pruning` takes the wrappers off again, "
            f"the model {model.name!r} is wrapped in place, as it cannot be copied. {error}",
            stacklevel=3,
        )
        return None


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns a wrapped model without the wrappers: the plain architecture, with zeros in place.

    Args:
        model: A model made by `apply_masks`.

    Returns:
        A model with the original layers and layer names and the weights θ⊙m. Of a copy made by `apply_masks` it is a
        copy again, compiled like `model` with a new optimizer of the same configuration. A model that was wrapped in
        place is unwrapped in place: it is the same object, with the very layers it had, compiled as it is. Nothing
        keeps the zeros when the model is trained further.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not wrapped.

    Example:

    ```python
    force_tf.strip_pruning(pruned).save("plain.keras")  # loads without force_tf
    ```
    """
    masks = get_masks(model)
    if _is_in_place(model):
        in_place.unwrap(model)
        return model
    plain = rebuild(model, original=unwrapped)
    for weight in prunable.all_prunable_weights(plain):
        if weight.path in masks:
            weight.variable.assign(masked(weight.variable, masks[weight.path]))
    return plain


@contextlib.contextmanager
def without_masks(model: keras.Model) -> Iterator[keras.Model]:
    """Lends the plain form of a model for the length of the block, and leaves the model as it is.

    Args:
        model: A model, wrapped or not.

    Yields:
        A model without wrappers, with the weights θ⊙m: a copy, or the model itself where it cannot be copied.
    """
    if not is_pruned(model):
        yield model
    elif _is_in_place(model):
        with in_place.unwrapped(model):
            yield model
    else:
        yield strip_pruning(model)


def get_masks(model: keras.Model) -> Masks:
    """Returns the masks of a wrapped model, in model order, under the paths of the unwrapped model.

    Args:
        model: A model made by `apply_masks`, or by tfmot's `prune_low_magnitude`.

    Returns:
        `Masks` that fit the model with or without wrappers. Prunable weights without a mask stand in `left_out`.

    Raises:
        TypeError: If `model` is not a Keras model.
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
        for path, wrapper in mask_wrappers(model)
        for relative, mask in masks_of(wrapper).items()
    }
    left_out = {
        weight.path: "not masked" for weight in prunable.all_prunable_weights(model) if weight.path not in found
    }
    return Masks(found, left_out=left_out)


def is_pruned(model: Any) -> bool:
    """Returns whether any layer of a model is a `MaskedLayer`, or wrapped by tfmot.

    Args:
        model: A model of either Keras.
    """
    return any(unwrapped(layer) is not layer for layer in keras_internals.inner_layers(model))


def _is_in_place(model) -> bool:
    # A subclassed model whose own code makes the wrappers cannot be copied either.
    return in_place.is_wrapped_in_place(model) or not is_graph(model)


def _masked_weights(model, masks: Masks) -> list[PrunableWeight]:
    """Returns the weights of a model that have a mask.

    Raises:
        ValueError: If the masks do not fit the model.
    """
    required, _ = prunable.prunable_weights(model)
    required = {weight.path for weight in required}
    weights = prunable.all_prunable_weights(model)
    shapes = {weight.path: weight.shape for weight in weights}
    needed = {path: shape for path, shape in shapes.items() if path in masks or path in required}
    difference = masks.first_difference(needed, optional=shapes)
    if difference:
        raise ValueError(f"Expected masks for this model. Received masks that differ: {difference}")
    return [weight for weight in weights if weight.path in masks]
