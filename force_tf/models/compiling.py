"""Compiles the copy of a model as the model is compiled, in either Keras."""

from __future__ import annotations

from typing import Any

import keras

from force_tf.models import keras_internals
from force_tf.models.keras_models import compile_arguments, keras_of


def copy_compile_configuration(model: Any, rebuilt: Any, variables: list[tuple[Any, Any]]) -> None:
    """Compiles a copy like the model it was made of, with a new optimizer and new metrics of the same configuration.

    Args:
        model: A model, compiled or not.
        rebuilt: Its copy.
        variables: Pairs of a variable of the model and that of the copy.
    """
    config = compile_arguments(model)  # the objects themselves: they may not be serializable
    if not config:
        return
    module = keras_of(model)
    if type(model).compile is not module.Model.compile:
        # Only the class itself knows what its `compile` takes.
        rebuilt.compile_from_config(model.get_compile_config())
        return
    options = {name: config[name] for name in ("run_eagerly", "steps_per_execution", "jit_compile")}
    if module is keras:
        options = {name: getattr(model, name) for name in options}  # also what was set since
        options["auto_scale_loss"] = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    rebuilt.compile(
        optimizer=_copy_optimizer(model.optimizer, variables),
        loss=config["loss"],  # losses have no state, and not all of them have their options in their configuration
        loss_weights=config["loss_weights"],
        metrics=keras.tree.map_structure(_copy_metric, config["metrics"]),
        weighted_metrics=keras.tree.map_structure(_copy_metric, config["weighted_metrics"]),
        **options,
    )


def _copy_metric(item):
    """Returns a metric without state of its own configuration; names and functions are values."""
    module = keras_of(item)
    if module is None or not isinstance(item, module.metrics.Metric):
        return item
    config = item.get_config()
    # The function as it is need not be registered.
    function = keras_internals.metric_function(item)
    if function is not None and isinstance(config.get("fn"), (dict, str)):
        config["fn"] = function
    return type(item).from_config(config)


def _copy_optimizer(optimizer, variables: list[tuple[Any, Any]]):
    config = optimizer.get_config()
    inner = getattr(optimizer, "inner_optimizer", None)  # of one that scales losses
    if inner is not None:
        return type(optimizer)(**{**config, "inner_optimizer": _copy_optimizer(inner, variables)})
    learning_rate = keras_internals.learning_rate(optimizer)
    if callable(learning_rate):  # a schedule or function, which has no state
        config["learning_rate"] = learning_rate
    copy = type(optimizer).from_config(config)
    decays = keras_internals.uses_weight_decay
    excluded = [new for old, new in variables if old.trainable and not decays(optimizer, old)]
    if excluded:
        copy.exclude_from_weight_decay(var_list=excluded)
    return copy
