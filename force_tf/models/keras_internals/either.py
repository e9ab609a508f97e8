"""Private names that Keras 3 and tf_keras have both, or each in its own way."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from force_tf.models.keras_internals import keras3 as of_keras_3
from force_tf.models.keras_internals import tf_keras as of_tf_keras
from force_tf.models.keras_internals.required import imported, is_keras_3, missing, package_of, required
from force_tf.models.keras_internals.tensorflow import resource_variable_class


def inner_layers(layer: Any, include_self: bool = True, recursive: bool = True) -> Iterator[Any]:
    """Yields a layer or model and the layers in it, in the order in which they were added (`_flatten_layers`).

    Keras's public `layers` are those of a model alone, and of one level.
    """
    return required(layer, "_flatten_layers")(include_self=include_self, recursive=recursive)


def is_compiled(model: Any) -> bool:
    """Returns whether a model is compiled (`_is_compiled` in tf_keras)."""
    return model.compiled if is_keras_3(model) else required(model, "_is_compiled")


def compiled_arguments(model: Any) -> dict[str, Any]:
    """Returns what a compiled model was compiled with, the objects themselves (`_compile_config`).

    The public `get_compile_config` serializes them.
    """
    return required(required(model, "_compile_config"), "config")


def logits(output: Any) -> Any:
    """Returns an output before its softmax or sigmoid (`_keras_logits`), or the output itself if it has neither.

    Keras's activations leave their inputs on the outputs, for its own cross-entropy losses.
    """
    for package in ("keras", "tf_keras"):
        if package in sys.modules:
            _check_logits(package)
    return getattr(output, "_keras_logits", output)


@functools.cache
def _check_logits(package: str) -> None:
    # Most outputs have none, so whether the name is still in use must be asked of one that has.
    with tf.init_scope():
        output = sys.modules[package].activations.softmax(tf.zeros((1, 2)))
    if not hasattr(output, "_keras_logits"):
        raise missing("activations.softmax(...)._keras_logits", package)


def graph_with_nodes(model: Any) -> Any | None:
    """Returns the model that holds the nodes of a graph, or None if Keras has made no graph of it.

    That of a Sequential model of Keras 3 is another model (`_functional`).
    """
    if is_keras_3(model):
        return required(model, "_functional") if isinstance(model, keras.Sequential) else model
    return model if of_tf_keras.is_graph_network(model) else None


def nodes_by_depth(graph: Any) -> dict[int, list[Any]]:
    """Returns the calls of a graph by their distance from its outputs (`_nodes_by_depth`)."""
    return required(graph, "_nodes_by_depth")


def inbound_nodes(layer: Any) -> list[Any]:
    """Returns the symbolic calls of a layer or operation, in all graphs (`_inbound_nodes`)."""
    return required(layer, "_inbound_nodes")


def take_over_nodes(old: Any, new: Any) -> None:
    """Gives a layer the symbolic calls of another, the lists themselves (`_inbound_nodes`, `_outbound_nodes`)."""
    for nodes in ("_inbound_nodes", "_outbound_nodes"):
        slot = nodes if is_keras_3(old) else f"{nodes}_value"
        if slot not in vars(new):
            raise missing(f"{type(new).__name__}.{slot}", package_of(new) or "keras")
        # Past the `__setattr__` of Keras 3, which would copy the list.
        vars(new)[slot] = required(old, nodes)


def set_history(tensor: Any, **changes: Any) -> None:
    """Changes what a symbolic tensor remembers of the call that it comes from (`_keras_history`)."""
    tensor._keras_history = required(tensor, "_keras_history")._replace(**changes)


def set_name(layer: Any, name: str) -> None:
    """Gives a layer a name, which tf_keras lets one read only (`_name`)."""
    if is_keras_3(layer):
        layer.name = name
    else:
        required(layer, "_name")
        layer._name = name


def safe_mode_off(package: str) -> AbstractContextManager:
    """Lets the Keras of a name make lambdas from configurations for a block, whatever the user has set."""
    return imported(f"{package}.src.saving.serialization_lib", "SafeModeScope")(False)


def loading_keras() -> ModuleType | None:
    """Returns the Keras that is making objects of configurations in this thread (`in_safe_mode`), or None.

    Each tells it by its safe mode, which is None outside of loading unless the user has turned it off for good.
    """
    modes = {
        package: imported(f"{package}.src.saving.serialization_lib", "in_safe_mode")()
        for package in ("keras", "tf_keras")
        if package in sys.modules
    }
    loading = [package for package, mode in modes.items() if mode] or [p for p, mode in modes.items() if mode is False]
    return sys.modules[loading[0]] if loading else None


def metric_function(metric: Any) -> Any | None:
    """Returns the function that a metric averages (`_fn`), or None if it is of another kind."""
    averages = sys.modules[package_of(metric)].metrics.MeanMetricWrapper
    return required(metric, "_fn") if isinstance(metric, averages) else None


def uses_weight_decay(optimizer: Any, variable: Any) -> bool:
    """Returns whether an optimizer that decays weights decays this one (`_use_weight_decay`).

    The legacy optimizers of tf_keras decay none, and have nothing to exclude.
    """
    return of_tf_keras.is_legacy_optimizer(optimizer) or required(optimizer, "_use_weight_decay")(variable)


def optimizer_slots(optimizer: Any, weight: Any) -> list[Any]:
    """Returns what an optimizer remembers of each entry of a weight: momenta, averages and accumulated gradients.

    Args:
        optimizer: One of either Keras; of mixed precision the one inside the one that scales losses.
        weight: A weight that it trains. Before its first step it remembers nothing.
    """
    kind = of_keras_3 if is_keras_3(optimizer) else of_tf_keras
    return kind.optimizer_slots(optimizer, weight)


def optimizer_state_out_of_reach(optimizer: Any, weights: Iterable[Any]) -> list[str]:
    """Returns the names of variables of an optimizer that are neither single numbers nor among the slots of weights.

    Also of those that it holds as plain variables of TensorFlow, of which Keras knows nothing.

    Args:
        optimizer: One of either Keras, that has made its variables.
        weights: All weights that it trains.
    """
    reached = {id(slot) for weight in weights for slot in optimizer_slots(optimizer, weight)}
    variables = list(optimizer.variables() if callable(optimizer.variables) else optimizer.variables)
    known = {id(variable) for variable in (*variables, *weights)}
    values = [value for value in vars(optimizer).values() if isinstance(value, (tf.Variable, list, tuple))]
    held = tf.nest.flatten(values)
    variables += [each for each in held if isinstance(each, tf.Variable) and id(each) not in known]
    return [variable.name for variable in variables if len(variable.shape) and id(variable) not in reached]


def stored_value(variable: Any) -> Any:
    """Returns what a variable holds, past all that its class shows in the place of it.

    A variable of Keras 3 holds one of TensorFlow (`_value`). One of tf_keras is such a one, which a subclass may read
    in its own way (`_read_variable_op`).
    """
    if isinstance(variable, keras.Variable):
        return required(variable, "_value")
    inner = of_tf_keras.without_autocast(variable)
    kind = resource_variable_class()
    part = getattr(inner, "values", (inner,))[0]  # the first of those on all devices
    if isinstance(part, kind) and type(part) is not kind:
        return required(kind, "_read_variable_op")(part)
    return variable


def learning_rate(optimizer: Any) -> Any:
    """Returns the learning rate, or what tells it: a variable, a number, a schedule or a function.

    The public `learning_rate` of Keras 3 is its value at the present step.
    """
    if of_tf_keras.is_legacy_optimizer(optimizer):
        return required(optimizer, "_hyper").get("learning_rate")
    return required(optimizer, "_learning_rate")


def loss_argument(loss: Any, name: str, default: Any) -> Any:
    """Returns an argument of a loss: an attribute in Keras 3, in tf_keras kept for its function (`_fn_kwargs`)."""
    if hasattr(loss, name):
        return getattr(loss, name)
    if package_of(loss) == "tf_keras" and isinstance(loss, imported("tf_keras.src.losses", "LossFunctionWrapper")):
        return required(loss, "_fn_kwargs").get(name, default)
    return default


def is_training_call(layer: Any) -> bool:
    """Returns whether a layer, which is being called, is called in training mode, by itself or by a model around it.

    Keras tells it the layers whose `call` has an argument for it; for all, each keeps the context of the calls of a
    thread (`current_call_ctx`, `call_context`).
    """
    if is_keras_3(layer):
        context = imported("keras.src.backend.common.global_state", "get_global_attribute")("current_call_ctx")
    else:
        context = imported("tf_keras.src.engine.base_layer_utils", "call_context")()
    return getattr(context, "training", None) is True


def batches_applied(optimizer: Any) -> Any:
    """Returns the variable in which an optimizer counts the batches whose gradients it was given (`_iterations`).

    The public `iterations` of Keras 3 counts steps, of which each may accumulate several batches.
    """
    return required(optimizer, "_iterations") if is_keras_3(optimizer) else optimizer.iterations


def attention_projections(layer: Any) -> tuple[Any, Any, Any, Any]:
    """Returns the layers in an attention layer that project query, key, value and output (`_query_dense` …)."""
    query, key, value, output = (required(layer, f"_{role}_dense") for role in ("query", "key", "value", "output"))
    return query, key, value, output


def attention_gate(layer: Any) -> Any | None:
    """Returns the layer in a gated attention layer that makes the gate (`_gate_dense`), or None if it has no gate."""
    has_gate = vars(layer).get("_use_gate") or vars(layer).get("use_gate")
    return required(layer, "_gate_dense") if has_gate else None


def attention_axes(layer: Any) -> tuple[int, ...]:
    """Returns the axes over which an attention layer attends (`_attention_axes`).

    Grouped-query attention takes sequences alone, and attends over their one axis.
    """
    grouped = getattr(keras.layers, "GroupQueryAttention", ())
    return (1,) if isinstance(layer, grouped) else required(layer, "_attention_axes")
