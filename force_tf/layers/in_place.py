"""Wraps the layers of a model where they are, and unwraps them: for models that Keras cannot copy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.ops.function import make_node_key
from keras.src.utils.tracking import DotNotTrackScope

from force_tf import prunable
from force_tf.keras_models import is_model
from force_tf.layers.keras3 import MaskedLayer
from force_tf.layers.masking import paths_by_layer, rename


def layers_to_wrap(model: keras.Model, weights: Sequence[prunable.PrunableWeight]) -> list[tuple[Any, tuple[str, ...]]]:
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
        return _is_open(layer) and id(layer) not in owners

    to_wrap = paths_by_layer(weights, is_open)
    _check_calls(model, weights, is_open)
    layers = {id(layer): layer for weight in weights for layer in weight.layers}
    return [(layers[key], paths) for key, paths in to_wrap.items()]


def wrap(model: keras.Model, layers: Iterable[tuple[Any, Sequence[str]]]) -> None:
    """Puts a `MaskedLayer` around layers of a model, wherever the model refers to them.

    Args:
        model: A built model. It is the same object afterwards, of a class derived from its own.
        layers: Pairs of a layer and the paths of its weights to mask, relative to it.
    """
    pairs = []
    with contextlib.ExitStack() as undo:  # what fails, or is interrupted, leaves the model as it was
        for layer, paths in layers:
            wrapper = MaskedLayer(layer, weights=paths)
            undo.callback(wrapper.release)
            wrapper.build()
            wrapper.keep_at_every_step()
            pairs.append((layer, wrapper))
        undo.callback(_exchange, model, [(wrapper, layer) for layer, wrapper in pairs])
        _exchange(model, pairs)
        object.__setattr__(model, "__class__", _in_place_class(type(model)))
        undo.pop_all()
    _drop_compiled_functions(model)


def _is_open(layer) -> bool:
    # Keras's own layers are closed: `LSTM` and `MultiHeadAttention` expect of the layers inside what a wrapper lacks.
    base = keras.layers.Layer
    keras_classes = [cls for cls in type(layer).__mro__ if cls.__module__.partition(".")[0] == "keras"]
    return is_model(layer) or not any(issubclass(cls, base) and cls is not base for cls in keras_classes)


def _check_calls(model, weights: Sequence[prunable.PrunableWeight], is_open: Callable[[Any], bool]) -> None:
    """Raises if a masked weight is reached past its wrapper."""

    def outermost(layers):
        return next(layer for layer in layers if not is_open(layer))

    wrapped = {id(weight.layers[-1]): outermost(weight.layers) for weight in weights}
    for path, chain in prunable.walk_layers(model):
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
    _exchange(model, pairs)
    for holder in _holders(model):
        if isinstance(holder, InPlaceModel):
            _restore_class(holder)
    _drop_compiled_functions(model)


def is_wrapped_in_place(model: keras.Model) -> bool:
    """Returns whether `wrap` was applied to a model, or to one inside it."""
    return any(isinstance(layer, InPlaceModel) for layer in model._flatten_layers())


@contextlib.contextmanager
def unwrapped(model: keras.Model) -> Iterator[keras.Model]:
    """Takes the wrappers of a model off for the length of the block; its weights are θ⊙m."""
    pairs, in_place_class = _wrapped(model), type(model)
    for wrapper, _ in pairs:
        for weight in wrapper.masked_weights:
            weight.project()
    try:
        _exchange(model, pairs)
        if isinstance(model, InPlaceModel):
            _restore_class(model)
        yield model
    finally:
        _exchange(model, [(layer, wrapper) for wrapper, layer in pairs])
        object.__setattr__(model, "__class__", in_place_class)


@keras.saving.register_keras_serializable(package="force_tf")
class InPlaceModel:
    """What a model is, besides its own class, as long as layers inside it are wrapped in place.

    Code of the user makes the plain layers when the model is loaded. So a file holds the configuration of the plain
    model, and what to wrap in it.
    """

    def get_config(self) -> dict[str, Any]:
        paths = {id(layer): [weight.path for weight in wrapper.masked_weights] for wrapper, layer in _wrapped(self)}
        walked = [(path, chain[-1]) for path, chain in prunable.walk_layers(self)]
        masked = {path: paths[id(layer)] for path, layer in walked if id(layer) in paths}
        with unwrapped(self):
            config = keras.saving.serialize_keras_object(self)
        config.pop("compile_config", None)  # stands in the file beside this configuration
        return {"model": config, "layer_names": [layer.name for _, layer in walked], "masked_weights": masked}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> keras.Model:
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        layers = [chain[-1] for _, chain in prunable.walk_layers(model)]
        for layer, name in zip(layers, config["layer_names"]):
            rename(layer, name)  # Keras numbers unnamed layers anew in every process
        by_path = {path: chain[-1] for path, chain in prunable.walk_layers(model)}
        unbuilt = [path for path in config["masked_weights"] if path not in by_path or not by_path[path].built]
        if unbuilt or len(layers) != len(config["layer_names"]):
            raise ValueError(
                "Expected a model that makes and builds the layers it was saved with: define `get_config`, and a "
                "`build` that builds them. Received: one of class "
                f"{type(model).__name__} with {len(layers)} layers instead of {len(config['layer_names'])}, "
                f"without weights in {unbuilt}"
            )
        wrap(model, [(by_path[path], paths) for path, paths in config["masked_weights"].items()])
        return model


@functools.cache
def _in_place_class(model_class: type) -> type:
    namespace = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    in_place_class = type(model_class.__name__, (InPlaceModel, model_class), namespace)
    # Whichever of these classes a file is loaded with, `from_config` goes by the file.
    return keras.saving.register_keras_serializable(package="force_tf", name=InPlaceModel.__name__)(in_place_class)


def _restore_class(model) -> None:
    object.__setattr__(model, "__class__", type(model).__bases__[1])


def _wrapped(model) -> list[tuple[Any, Any]]:
    """Returns every wrapper in a model, with the layer that it wraps."""
    return [(layer, layer.masked_layer) for layer in model._flatten_layers() if isinstance(layer, MaskedLayer)]


def _exchange(model, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Puts layers in the places of others, wherever a model refers to them.

    Args:
        model: The model.
        pairs: (layer, layer to put in its place).
    """
    new_layers = {id(old): new for old, new in pairs}
    for old, new in pairs:
        _take_over_calls(old, new)
    for holder in _holders(model):
        for old, new in pairs:
            if holder._tracker.is_in_store("layers", old):
                holder._tracker.replace_tracked_value("layers", old, new)
        with DotNotTrackScope():  # Keras's tracker would add the new layers as its last
            _exchange_in(holder, new_layers)
    for layer in model._flatten_layers():
        _forget_traces(layer)


def _exchange_in(holder, new_layers: Mapping[int, Any]) -> None:
    for name, value in list(vars(holder).items()):
        if name.startswith("_self_"):
            continue  # TensorFlow's own tracker, which learns it from `setattr`
        new_value = _map_items(value, lambda item: new_layers.get(id(item), item))
        if new_value is not value:
            setattr(holder, name, new_value)
    if isinstance(holder, keras.Function):
        nodes = [node for nodes in holder._nodes_by_depth.values() for node in nodes]
        holder._nodes = {make_node_key(n.operation, n.operation._inbound_nodes.index(n)) for n in nodes}


def _take_over_calls(old, new) -> None:
    """Makes a layer take the place of another in the graphs of Functional models."""
    for nodes in ("_inbound_nodes", "_outbound_nodes"):
        vars(new)[nodes] = getattr(old, nodes)  # past Keras's `__setattr__`, which would copy the list
    for node in old._inbound_nodes:
        node.operation = new
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(operation=new)


def _holders(model) -> list[Any]:
    """Returns a model and the open layers in it: all that may refer to layers of the model."""
    found: dict[int, Any] = {id(model): model}
    queue = [model]

    def visit(item):
        if isinstance(item, keras.layers.Layer) and _is_open(item) and id(item) not in found:
            found[id(item)] = item
            queue.append(item)
        return item

    while queue:
        for value in list(vars(queue.pop()).values()):
            _map_items(value, visit)
    return list(found.values())


def _map_items(value: Any, function: Callable[[Any], Any]) -> Any:
    """Replaces what containers hold, to any depth, by a function of it.

    Returns:
        The same list, dict or set, changed. A new one, if anything in it has changed, of a tuple, and of what
        TensorFlow tracks itself: it saves nothing that was changed behind its back. Of anything else, the function.
    """
    if not isinstance(value, (list, dict, set, tuple)):
        return function(value)
    entries = list(value.items() if isinstance(value, dict) else enumerate(value))
    changed = [(key, old, new) for key, old in entries if (new := _map_items(old, function)) is not old]
    if not changed:
        return value
    if isinstance(value, set):
        for _, old, new in changed:
            value.remove(old)
            value.add(new)
        return value
    # TensorFlow wraps the containers of a layer, but shows their class.
    in_place = isinstance(value, (list, dict)) and not isinstance(value, tf.__internal__.tracking.Trackable)
    result = value if in_place else dict(entries) if isinstance(value, dict) else [item for _, item in entries]
    for key, _, new in changed:
        result[key] = new
    if isinstance(value, tuple):
        return value.__class__(*result) if hasattr(value, "_fields") else value.__class__(result)
    return result


def _drop_compiled_functions(model) -> None:
    """Makes `fit`, `evaluate` and `predict` trace anew."""
    for layer in model._flatten_layers():
        if is_model(layer):
            layer.train_function = layer.test_function = layer.predict_function = None


def _forget_traces(layer) -> None:
    """Makes methods of a layer that are under `tf.function` trace anew."""
    for cls in type(layer).__mro__:
        for value in vars(cls).values():
            if isinstance(value, tf.types.experimental.PolymorphicFunction):
                value._descriptor_cache.pop(layer, None)
