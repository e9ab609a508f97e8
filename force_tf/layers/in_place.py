"""Wraps the layers of a model where they are, and unwraps them: for models that Keras cannot copy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from force_tf.layers.keras3 import allow_quantize, refuse_quantize
from force_tf.layers.masking import MaskHolder, paths_by_layer
from force_tf.layers.wrapper_config import are_mask_texts, are_texts, check_entries, check_inner_layer
from force_tf.layers.wrappers import wrapper_class
from force_tf.models import keras_internals, references
from force_tf.models.keras_models import is_model, keras_of
from force_tf.models.paths import layers_by_path, layers_of, walk_layers
from force_tf.models.weights import PrunableWeight
from force_tf.support.interrupts import restoring


def layers_to_wrap(model: keras.Model, weights: Sequence[PrunableWeight]) -> list[tuple[Any, tuple[str, ...]]]:
    """Returns the layers to wrap for masks of some weights, as near to the weights as may be.

    Args:
        model: A built model.
        weights: The weights of the model to mask.

    Returns:
        Pairs of a layer and the paths of its weights to mask, relative to it.

    Raises:
        ValueError: If a layer to wrap is not the only one that calls a layer inside it.
    """
    owners = {id(weight.layers[-1]) for weight in weights}

    def is_open(layer):
        return references.is_open(layer) and id(layer) not in owners

    to_wrap = paths_by_layer(weights, is_open)
    _check_calls(model, weights, is_open)
    layers = {id(layer): layer for weight in weights for layer in weight.layers}
    return [(layers[key], paths) for key, paths in to_wrap.items()]


def wrap(
    model: keras.Model,
    layers: Iterable[tuple[Any, Sequence[str]]],
    masks: Mapping[int, Mapping[str, str]] | None = None,
) -> None:
    """Puts a `MaskedLayer` around layers of a model, wherever the model refers to them.

    Args:
        model: A built model. It is the same object afterwards, of a class derived from its own.
        layers: Pairs of a layer and the paths of its weights to mask, relative to it.
        masks: The masks to begin with, as configurations have them, by the ids of the layers; all kept without one.
    """
    pairs = []
    with contextlib.ExitStack() as undo:  # what fails, or is interrupted, leaves the model as it was
        for layer, paths in layers:
            wrapper = wrapper_class(model)(layer, weights=paths)
            wrapper.begin_with((masks or {}).get(id(layer), {}))
            undo.callback(wrapper.release)
            wrapper.build()
            wrapper.keep_at_every_step()
            pairs.append((layer, wrapper))
        undo.callback(references.exchange, model, [(wrapper, layer) for layer, wrapper in pairs])
        references.exchange(model, pairs)
        _check_exchange(model, pairs)
        _take_class(model)
        undo.pop_all()
    _drop_compiled_functions(model)


def _check_exchange(model, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Raises if the model would still call a layer past its wrapper, or never call the wrapper."""
    for holder, way, layer in references.mentions(model, [layer for layer, _ in pairs]):
        raise ValueError(
            "Expected the layers with masks to be called by attributes of the model, or what those hold: keep this one "
            "in an attribute, or leave it out of the masks with `layers=` of PruneAtInit. Received: "
            f"{way} in {holder.name!r} of class {type(holder).__name__}, which refers to the layer {layer.name!r}"
        )
    inside = {id(layer) for layer in keras_internals.inner_layers(model)}
    lost = [layer.name for layer, wrapper in pairs if id(wrapper) not in inside]
    if lost:
        raise ValueError(f"Expected layers that the model itself holds. Received: {', '.join(lost)}, inside others")


def _check_calls(model, weights: Sequence[PrunableWeight], is_open: Callable[[Any], bool]) -> None:
    """Raises if a masked weight is reached past its wrapper."""

    def outermost(layers):
        return next(layer for layer in layers if not is_open(layer))

    wrapped = {id(weight.layers[-1]): outermost(weight.layers) for weight in weights}
    for path, chain in walk_layers(model):
        layer = wrapped.get(id(chain[-1]))
        if layer is not None and outermost(chain) is not layer:
            raise ValueError(
                "Expected a layer inside one of Keras's own to be used there alone, or leave it out of the masks with "
                f"`layers=` of PruneAtInit. Received: {path!r}, which is used by {layer.name!r} too"
            )


def unwrap(model: keras.Model) -> None:
    """Takes all wrappers of a model off, and leaves θ⊙m in its weights."""
    pairs = _wrapped(model)
    for wrapper, _ in pairs:
        wrapper.release()
    references.exchange(model, pairs)
    for holder in references.holders(model):
        if isinstance(holder, InPlaceModel):
            _restore_class(holder)
    _drop_compiled_functions(model)


def forget_pruned(model: keras.Model) -> None:
    """Makes zero what the optimizer of a wrapped model, and of models inside it, remembers of pruned weights."""
    parts = [layer for layer in keras_internals.inner_layers(model) if is_model(layer)]
    optimizers = [optimizer for part in parts if (optimizer := getattr(part, "optimizer", None)) is not None]
    for optimizer in optimizers:
        for wrapper, _ in _wrapped(model):
            for weight in wrapper.masked_weights:
                # That of mixed precision has another inside.
                weight.forget_pruned(getattr(optimizer, "inner_optimizer", optimizer))


def is_wrapped_in_place(model: keras.Model) -> bool:
    """Returns whether `wrap` was applied to a model, or to one inside it."""
    return any(isinstance(layer, InPlaceModel) for layer in keras_internals.inner_layers(model))


def unwrapped(model: keras.Model) -> restoring:
    """Takes the wrappers of a model off for the length of a block; its weights are θ⊙m."""
    pairs, is_in_place = _wrapped(model), isinstance(model, InPlaceModel)
    for wrapper, _ in pairs:
        for weight in wrapper.masked_weights:
            weight.project()

    def take_off() -> None:
        references.exchange(model, pairs)
        if is_in_place:
            _restore_class(model)

    def put_back() -> None:
        references.exchange(model, [(layer, wrapper) for wrapper, layer in pairs])
        if is_in_place:
            _take_class(model)

    return restoring(put_back, take_off)


@keras.saving.register_keras_serializable(package="force_tf")
class InPlaceModel:
    """What a model is, besides its own class, as long as layers inside it are wrapped in place.

    Code of the user makes the plain layers when the model is loaded. So a file holds the configuration of the plain
    model, and what to wrap in it.
    """

    def get_config(self) -> dict[str, Any]:
        module = keras_of(self)
        if module is not keras and keras_internals.writes_saved_model():
            # This error is how tf_keras learns that there is no configuration. Without one the loaded model consists of
            # the functions in the SavedModel. With one, tf_keras makes subclassed models anew, wrapped or not, and
            # gives their layers the weights of others.
            raise NotImplementedError("A model that is wrapped in place has no configuration in a SavedModel.")
        wrappers = {id(layer): wrapper for wrapper, layer in _wrapped(self)}
        walked = [(path, layer) for path, layer in layers_by_path(self).items() if path]
        wrapped = {path: wrappers[id(layer)] for path, layer in walked if id(layer) in wrappers}
        with unwrapped(self):
            config = module.saving.serialize_keras_object(self)
        config.pop("compile_config", None)  # stands in the file beside this configuration
        names = [layer.name for _, layer in walked]
        masked = {path: [weight.path for weight in wrapper.masked_weights] for path, wrapper in wrapped.items()}
        masks = {path: wrapper.masks_as_text() for path, wrapper in wrapped.items()}
        return {"model": config, "layer_names": names, "masked_weights": masked, "masks": masks}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> keras.Model:
        _check_config(config)
        # Never by what the file says: the two differ in what they let a file do.
        module = keras_of(cls) or keras_internals.loading_keras() or keras
        model = module.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        check_inner_layer(model, module.Model)
        layers = layers_of(model)
        for layer, name in zip(layers, config["layer_names"]):
            keras_internals.set_name(layer, name)  # Keras numbers unnamed layers anew in every process
        by_path = layers_by_path(model)
        unbuilt = [path for path in config["masked_weights"] if path not in by_path or not by_path[path].built]
        if unbuilt or len(layers) != len(config["layer_names"]):
            raise ValueError(
                "Expected a model that makes and builds the layers it was saved with: define `get_config`, and a "
                "`build` that builds them. Received: one of class "
                f"{type(model).__name__} with {len(layers)} layers instead of {len(config['layer_names'])}, "
                f"without weights in {unbuilt}"
            )
        wrap(
            model,
            [(by_path[path], paths) for path, paths in config["masked_weights"].items()],
            {id(by_path[path]): masks for path, masks in config.get("masks", {}).items() if path in by_path},
        )
        return model


def _check_config(config: Any) -> None:
    """Raises unless the configuration of a model that was wrapped in place has what it needs, of the right kind."""

    def maps_paths(value, is_right):
        return (
            isinstance(value, Mapping)
            and all(isinstance(path, str) and path for path in value)
            and all(is_right(item) for item in value.values())
        )

    check_entries(
        config,
        model=("the configuration of a model", lambda value: isinstance(value, Mapping)),
        layer_names=("a list of names", are_texts),
        masked_weights=("a dict of a list of weight paths for each layer path", lambda v: maps_paths(v, are_texts)),
        masks=("a dict of masks for each layer path", lambda value: maps_paths(value, are_mask_texts)),
        needed=("model", "layer_names", "masked_weights"),
    )


@functools.cache
def _in_place_class(model_class: type) -> type:
    namespace = {"__module__": __name__, "__doc__": model_class.__doc__}
    in_place_class = type(InPlaceModel.__name__, (InPlaceModel, model_class), namespace)
    # Whichever of these classes a file is loaded with, `from_config` goes by the file.
    return keras_of(model_class).saving.register_keras_serializable("force_tf", InPlaceModel.__name__)(in_place_class)


def _take_class(model) -> None:
    object.__setattr__(model, "__class__", _in_place_class(type(model)))
    if keras_of(model) is keras:
        refuse_quantize(model)


def _restore_class(model) -> None:
    allow_quantize(model)
    object.__setattr__(model, "__class__", type(model).__bases__[1])


def _wrapped(model) -> list[tuple[Any, Any]]:
    """Returns every wrapper in a model, with the layer that it wraps."""
    return [
        (layer, layer.masked_layer) for layer in keras_internals.inner_layers(model) if isinstance(layer, MaskHolder)
    ]


def _drop_compiled_functions(model) -> None:
    """Makes `fit`, `evaluate` and `predict` trace anew."""
    for layer in keras_internals.inner_layers(model):
        if is_model(layer):
            layer.train_function = layer.test_function = layer.predict_function = None
