"""Rebuilds a model of either Keras with other layers in the same places; weights, names and compilation stay."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.adapted import config_of, copy_adapted_state, derives_from_variables, forgotten_variables
from force_tf.models.compiling import copy_compile_configuration
from force_tf.models.keras_models import (
    NotCopyableError,
    array_variables,
    check_is_graph,
    is_graph,
    is_layer,
    is_model,
    keras_of,
)
from force_tf.models.paths import layers_of, unwrapped
from force_tf.models.weights import variable_at
from force_tf.support.interrupts import restoring

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class Change:
    """What makes the copy of a layer another one.

    Attributes:
        config: Entries of its configuration, in place of those of the layer.
        values: Values of its weights, by their paths relative to the layer, such as "kernel" or "lstm_cell/kernel". Its
            other variables are copied.
    """

    config: Mapping[str, Any]
    values: Mapping[str, np.ndarray]


def rebuild(
    model: keras.Model,
    original: Callable[[Any], Any] = lambda layer: layer,
    replacement: Callable[[Any, Any], Any] = lambda layer, copy: copy,
    precision: str | None = None,
    changes: Mapping[int, Change] | None = None,
) -> keras.Model:
    """Returns a new model of the same graph that shares nothing with `model`, and is distributed as it is.

    Args:
        model: A built Functional or Sequential model. Models inside it are rebuilt too.
        original: Given a layer of the graph, returns the layer to copy in its stead.
        replacement: Given a layer that was copied and its copy, not built yet, returns the layer for the new graph. It
            calls the copy and has its name.
        precision: A float type, such as "float64", for the copy to compute in instead of its dtype policies.
        changes: How to change the copies of layers, by the ids of the layers that are copied.

    Returns:
        A model with the weights, seed generators, layer names, dtype policies and `trainable` flags of `model`,
        compiled like it with a new optimizer. A copy in another precision is there to compute, and is not compiled.

    Raises:
        NotCopyableError: If the model, or a layer in it, cannot be rebuilt.
    """
    check_is_graph(model)
    pairs, shown, changes = [], {}, changes or {}

    def clone(layer):
        source = original(layer)
        change = changes.get(id(source))
        copy = _copy_layer(source, precision, {} if change is None else change.config)
        new_layer = replacement(source, copy)
        if is_layer(copy):
            pairs.append((source, copy))
            shown[id(copy)] = new_layer
        return new_layer

    with model.distribute_strategy.scope():
        rebuilt = _clone_graph(model, clone)
        if not rebuilt.built:
            rebuilt.build(model.input_shape)
        _copy_attributes(model, rebuilt, shown, keep_policies=precision is None)
        variables = [_copy_variables(source, copy, changes.get(id(source))) for source, copy in pairs]
        variables = [pair for of_layer in variables for pair in of_layer]
        if len({id(source) for source, _ in variables}) != len(_unmasked_variables(model)):
            raise NotCopyableError(
                "Expected a model whose variables all belong to its layers. "
                f"Received: {model.name!r} of class {type(model).__name__}, which has variables of its own."
            )
        if precision is None:
            copy_compile_configuration(model, rebuilt, variables)
    return rebuilt


def _clone_graph(model, clone: Callable[[Any], Any]):
    """Returns a model of the same graph, of `clone(layer)` for each layer in it and in the models inside.

    Keras's own recursion before 3.14 does not enter a graph inside a Sequential model inside a graph.
    """
    copies: dict[int, Any] = {}  # a layer that several of the models share is copied once

    def clone_once(layer):
        if id(layer) not in copies:
            is_inner_graph = is_model(layer) and is_graph(layer)
            copies[id(layer)] = clone_graph(layer) if is_inner_graph else clone(layer)
        return copies[id(layer)]

    def clone_graph(part):
        copy = keras_of(part).models.clone_model(part, clone_function=clone_once)
        if type(copy) is not type(part):
            raise NotCopyableError(
                "Expected models whose class can be rebuilt from `(inputs, outputs, name)`, so that their methods are "
                f"kept. Received: {part.name!r} of class {type(part).__name__}"
            )
        return copy

    if keras_of(model) is not keras:
        return clone_graph(model)
    with not_compiled(model):  # it would compile from a serialized configuration, before there are weights
        return clone_graph(model)


def _copy_layer(layer, precision: str | None, changed_config: Mapping[str, Any]):
    """Returns an unbuilt copy; operations of the graph that are no layers are copied as well."""
    layers = [layer, *layers_of(layer)] if is_layer(layer) else [layer]
    # Code of the user that is not registered is at hand in the very object that is copied.
    objects = [item for part in layers for item in (type(part), *vars(part).values())]
    own = {
        item.__name__: item
        for item in objects
        if (inspect.isclass(item) or inspect.isfunction(item))
        and item.__module__.partition(".")[0] not in ("keras", "tf_keras")
    }
    module = keras_of(layer)
    try:
        # Lambdas are safe: the code comes from the model in memory, not from a file.
        with module.saving.custom_object_scope(own), keras_internals.safe_mode_off(module.__name__):
            config = {**config_of(layer), **changed_config}
            copy = type(layer).from_config(_in_precision(config, precision) if precision else config)
    except Exception as error:
        raise NotCopyableError(
            "Expected layers that can be copied from their configuration: define `get_config`, and register custom "
            f"objects with {module.__name__}.saving.register_keras_serializable. Received: {layer.name!r} of class "
            f"{type(layer).__name__}, which fails with {type(error).__name__}: {error}"
        ) from error
    if isinstance(layer, module.layers.Lambda):
        copy.function = layer.function  # what is made from the configuration has lost its global names
    if is_layer(copy):
        copy_adapted_state(layer, copy)  # before it is called, as its output's shape may follow from it
    return copy


def _in_precision(config: Any, precision: str) -> Any:
    """Returns a layer's config with every dtype policy in it, those of inner layers too, replaced by one precision."""
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "DTypePolicyMap", "Policy"):
            return precision
        return {
            key: precision if key == "dtype" and value in _FLOATS else _in_precision(value, precision)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)([_in_precision(value, precision) for value in config])
    return config


def not_compiled(model) -> restoring:
    """Hides from `clone_model`, for the length of a block, that a model and the models in it are compiled."""
    models = [model, *layers_of(model)]
    compiled = [part for part in models if getattr(part, "compiled", False)]

    def mark(is_compiled: bool) -> None:
        for part in compiled:
            part.compiled = is_compiled

    return restoring(lambda: mark(True), lambda: mark(False))


def _copy_attributes(model, rebuilt, shown: dict[int, Any], keep_policies: bool) -> None:
    """Copies what a clone does not carry over: names of sub-layers, `trainable`, and the policies of inner models."""
    old = [model, *layers_of(model)]
    new = [rebuilt, *layers_of(rebuilt)]
    for source, copy in zip(old, new, strict=True):
        keras_internals.set_name(copy, source.name)
        if keep_policies and is_model(source):
            _set_policy(copy, source.dtype_policy)
        copy = shown.get(id(copy), copy)  # a wrapper passes the flag on to the layer that it wraps
        if copy.trainable != source.trainable:  # outer layers come first, so what they pass on is corrected here
            copy.trainable = source.trainable


def _set_policy(model, policy) -> None:
    if keras_of(model) is not keras:
        keras_internals.set_dtype_policy(model, policy)
    elif model.dtype_policy != policy:
        model.dtype_policy = policy


def _copy_variables(source, copy, change: Change | None) -> list[tuple[Any, Any]]:
    changed = _assign_values(source, copy, {} if change is None else change.values)
    forgotten = forgotten_variables(source)
    assigned = {id(variable) for variable in (*itertools.chain(*changed), *forgotten)}
    rest = [[each for each in array_variables(layer) if id(each) not in assigned] for layer in (source, copy)]
    shapes = [[tuple(variable.shape) for variable in variables] for variables in rest]
    if shapes[0] != shapes[1]:
        raise NotCopyableError(
            "Expected layers whose copies, made from their configuration, have the same weights. Received: "
            f"{source.name!r} of class {type(source).__name__} with {shapes[0]}, whose copy has {shapes[1]}"
        )
    for old, new in zip(*rest):
        if isinstance(new, tf.Variable):
            new.assign(tf.cast(old, new.dtype))
        else:
            new.assign(old)
            new.trainable = old.trainable
            # Keras numbers variables that a layer gives no name throughout the process.
            keras_internals.rename_variable(new, old.name)
    if derives_from_variables(copy):
        copy.finalize_state()
    pairs = (*changed, *zip(*rest), *((variable, None) for variable in forgotten))
    return [pair for pair in pairs if pair[0] is not None]


def _assign_values(source, copy, values: Mapping[str, np.ndarray]) -> list[tuple[Any | None, Any]]:
    """Assigns values, and returns the variables of both layers; None for what the source does not have."""
    pairs = []
    for path, value in values.items():
        old, new = (variable_at(layer, path) for layer in (source, copy))
        new.assign(value)
        if old is not None and not isinstance(new, tf.Variable):
            new.trainable = old.trainable
        pairs.append((old, new))
    return pairs


def _unmasked_variables(model) -> list[Any]:
    wrappers = [layer for layer in keras_internals.inner_layers(model) if unwrapped(layer) is not layer]
    inner = {id(variable) for wrapper in wrappers for variable in array_variables(unwrapped(wrapper))}
    masks = {id(variable) for wrapper in wrappers for variable in array_variables(wrapper)} - inner
    return [variable for variable in array_variables(model) if id(variable) not in masks]
