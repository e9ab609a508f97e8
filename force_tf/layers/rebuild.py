"""Rebuilds a Keras 3 model with other layers in the same places: the same weights, names and compile configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.saving.serialization_lib import SafeModeScope

from force_tf import prunable

_FLOATS = ("float16", "bfloat16", "float32", "float64")


class NotCopyableError(ValueError):
    """A model, or a layer in it, of which Keras can make no copy."""


def rebuild(
    model: keras.Model,
    original: Callable[[Any], Any] = lambda layer: layer,
    replacement: Callable[[Any, Any], Any] = lambda layer, copy: copy,
    precision: str | None = None,
) -> keras.Model:
    """Returns a new model of the same graph that shares nothing with `model`.

    Args:
        model: A built Functional or Sequential model. Models inside it are rebuilt too.
        original: Given a layer of the graph, returns the layer to copy in its stead.
        replacement: Given a layer that was copied and its copy, not built yet, returns the layer for the new graph. It
            calls the copy and has its name.
        precision: A float type, such as "float64", for the copy to compute in instead of its dtype policies.

    Returns:
        A model with the weights, seed generators, layer names, dtype policies and `trainable` flags of `model`,
        compiled like it with a new optimizer. A copy in another precision is there to compute, and is not compiled.

    Raises:
        NotCopyableError: If the model, or a layer in it, cannot be rebuilt.
    """
    _check_is_graph(model)
    pairs, shown = [], {}

    def clone(layer):
        source = original(layer)
        copy = _copy_layer(source, precision)
        new_layer = replacement(source, copy)
        if isinstance(copy, keras.layers.Layer):
            pairs.append((source, copy))
            shown[id(copy)] = new_layer
        return new_layer

    with not_compiled(model):  # clone_model would compile from a serialized configuration, before there are weights
        rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if type(rebuilt) is not type(model):
        raise NotCopyableError(
            "Expected a model whose class can be rebuilt from `(inputs, outputs, name)`, so that its own methods are "
            f"kept. Received: {model.name!r} of class {type(model).__name__}"
        )
    if not rebuilt.built:
        rebuilt.build(model.input_shape)
    _copy_attributes(model, rebuilt, shown, keep_policies=precision is None)
    variables = [_copy_variables(source, copy) for source, copy in pairs]
    variables = [pair for of_layer in variables for pair in of_layer]
    if len({id(source) for source, _ in variables}) != len(_unmasked_variables(model)):
        raise NotCopyableError(
            "Expected a model whose variables all belong to its layers. "
            f"Received: {model.name!r} of class {type(model).__name__}, which has variables of its own."
        )
    if precision is None:
        _copy_compile_configuration(model, rebuilt, variables)
    return rebuilt


def is_graph(layer: Any) -> bool:
    """Returns whether a layer is a Functional or Sequential model, whose layers can be replaced one by one."""
    return isinstance(layer, (keras.Sequential, keras.Function))


def _check_is_graph(model) -> None:
    if not is_graph(model):
        raise NotCopyableError(
            "Expected a Functional or Sequential model: the layers of a subclassed model are called by its own code "
            f"and cannot be replaced from outside. Received: {model.name!r} of class {type(model).__name__}"
        )


def _copy_layer(layer, precision: str | None):
    """Returns an unbuilt copy; operations of the graph that are no layers are copied as well."""
    layers = [layer, *(chain[-1] for _, chain in prunable.walk_layers(layer))] if _is_layer(layer) else [layer]
    # Code of the user that is not registered is at hand in the very object that is copied.
    objects = [item for part in layers for item in (type(part), *vars(part).values())]
    own = {
        item.__name__: item
        for item in objects
        if (inspect.isclass(item) or inspect.isfunction(item)) and not item.__module__.startswith("keras.")
    }
    try:
        # Lambdas are safe: the code comes from the model in memory, not from a file.
        with keras.saving.custom_object_scope(own), SafeModeScope(False):
            config = layer.get_config()
            return type(layer).from_config(_in_precision(config, precision) if precision else config)
    except Exception as error:
        raise NotCopyableError(
            "Expected layers that can be copied from their configuration: define `get_config`, and register custom "
            f"objects with keras.saving.register_keras_serializable. Received: {layer.name!r} of class "
            f"{type(layer).__name__}, which fails with {type(error).__name__}: {error}"
        ) from error


def _in_precision(config: Any, precision: str) -> Any:
    """Returns a layer's config with every dtype policy in it, those of inner layers too, replaced by one precision."""
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "DTypePolicyMap"):
            return precision
        return {
            key: precision if key == "dtype" and value in _FLOATS else _in_precision(value, precision)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_in_precision(value, precision) for value in config)
    return config


def _is_layer(operation) -> bool:
    return isinstance(operation, keras.layers.Layer)


@contextmanager
def not_compiled(model) -> Iterator[None]:
    """Hides from `clone_model`, for the length of the block, that a model and the models in it are compiled."""
    models = [model, *(chain[-1] for _, chain in prunable.walk_layers(model))]
    compiled = [part for part in models if getattr(part, "compiled", False)]
    try:
        for part in compiled:
            part.compiled = False
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _copy_attributes(model, rebuilt, shown: dict[int, Any], keep_policies: bool) -> None:
    """Copies what a clone does not carry over: names of sub-layers, `trainable`, and the policies of inner models."""
    old = [model, *(chain[-1] for _, chain in prunable.walk_layers(model))]
    new = [rebuilt, *(chain[-1] for _, chain in prunable.walk_layers(rebuilt))]
    for source, copy in zip(old, new, strict=True):
        copy.name = source.name
        if keep_policies and isinstance(source, keras.Model) and copy.dtype_policy != source.dtype_policy:
            copy.dtype_policy = source.dtype_policy
        copy = shown.get(id(copy), copy)  # a wrapper passes the flag on to the layer that it wraps
        if copy.trainable != source.trainable:  # outer layers come first, so what they pass on is corrected here
            copy.trainable = source.trainable


def _copy_variables(source, copy) -> list[tuple[Any, Any]]:
    pairs = list(zip(source.variables, copy.variables))
    shapes = [[tuple(variable.shape) for variable in layer.variables] for layer in (source, copy)]
    if shapes[0] != shapes[1]:
        raise NotCopyableError(
            "Expected layers whose copies, made from their configuration, have the same weights. Received: "
            f"{source.name!r} of class {type(source).__name__} with {shapes[0]}, whose copy has {shapes[1]}"
        )
    for old, new in pairs:
        new.assign(old)
        new.trainable = old.trainable
    if hasattr(copy, "finalize_state"):  # adapted preprocessing layers compute with what they derive from their weights
        copy.finalize_state()
    return pairs


def _unmasked_variables(model) -> list[Any]:
    masks = {
        id(weight.mask)
        for layer in model._flatten_layers()
        for weight in (layer.masked_weights if hasattr(layer, "masked_layer") else ())
    }
    return [variable for variable in model.variables if id(variable) not in masks]


def _copy_compile_configuration(model, rebuilt, variables: list[tuple[Any, Any]]) -> None:
    if not model.compiled:
        return
    if type(model).compile is not keras.Model.compile:
        # Only the class itself knows what its `compile` takes.
        rebuilt.compile_from_config(model.get_compile_config())
        return
    config = model._compile_config.config  # the objects themselves: they may not be serializable
    loss_scaling = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    rebuilt.compile(
        optimizer=_copy_optimizer(model.optimizer, variables),
        loss=config["loss"],  # losses have no state, and not all of them have their options in their configuration
        loss_weights=config["loss_weights"],
        metrics=keras.tree.map_structure(_copy_metric, config["metrics"]),
        weighted_metrics=keras.tree.map_structure(_copy_metric, config["weighted_metrics"]),
        run_eagerly=model.run_eagerly,
        steps_per_execution=model.steps_per_execution,
        jit_compile=model.jit_compile,
        auto_scale_loss=loss_scaling,
    )


def _copy_metric(item):
    """Returns a metric without state of its own configuration; names and functions are values."""
    if not isinstance(item, keras.metrics.Metric):
        return item
    config = item.get_config()
    # Wrappers of a function keep it in `_fn`; given as it is, it need not be registered.
    if callable(getattr(item, "_fn", None)) and isinstance(config.get("fn"), (dict, str)):
        config["fn"] = item._fn
    return type(item).from_config(config)


def _copy_optimizer(optimizer, variables: list[tuple[Any, Any]]):
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return type(optimizer)(**{**config, "inner_optimizer": _copy_optimizer(optimizer.inner_optimizer, variables)})
    if not isinstance(optimizer._learning_rate, keras.Variable):
        config["learning_rate"] = optimizer._learning_rate  # a schedule or function, which has no state
    copy = type(optimizer).from_config(config)
    excluded = [new for old, new in variables if old.trainable and not optimizer._use_weight_decay(old)]
    if excluded:
        copy.exclude_from_weight_decay(var_list=excluded)
    return copy
