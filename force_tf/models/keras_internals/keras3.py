"""Private names of Keras 3."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from force_tf.models.keras_internals.required import imported, missing, required

# What a layer of Keras 3 knows of its `call`, by which Keras binds, casts and fills in arguments.
_CALL_CONVENTIONS = (
    "_call_signature",
    "_call_has_training_arg",
    "_call_has_mask_arg",
    "_convert_input_args",
    "_allow_non_tensor_positional_args",
)
# Since Keras 3.10, all of them or none. Before, `training` was the only argument that outer calls fill in.
_CALL_CONTEXT = ("call_signature_parameters", "_call_context_args", "_call_has_context_arg")


def call_conventions(layer: Any) -> dict[str, Any]:
    """Returns the attributes in which a layer keeps what Keras reads off the signature of its `call`."""
    names = _CALL_CONVENTIONS
    if any(hasattr(layer, name) for name in _CALL_CONTEXT):
        names += _CALL_CONTEXT
    return {name: required(layer, name) for name in names}


def listed_layers(layer: Any) -> list[Any]:
    """Returns the layers directly in a layer or model, in the order in which Keras writes them (`_layers`)."""
    return required(layer, "_layers")


def replace_tracked_layer(holder: Any, old: Any, new: Any) -> None:
    """Puts a layer in the place of another among those that a layer tracks (`_tracker`).

    Before Keras 3.14 a graph lists layers that it does not track.
    """
    tracker = required(holder, "_tracker")
    if required(tracker, "is_in_store")("layers", old):
        required(tracker, "replace_tracked_value")("layers", old, new)


def untracked() -> AbstractContextManager:
    """Keeps layers from tracking, for a block, what they get as attributes."""
    return imported("keras.src.utils.tracking", "DotNotTrackScope")()


def renew_node_keys(graph: Any) -> None:
    """Makes a graph know its nodes by the operations that they belong to now (`_nodes`)."""
    make_key = imported("keras.src.ops.function", "make_node_key")
    required(graph, "_nodes")
    nodes = [node for nodes in required(graph, "_nodes_by_depth").values() for node in nodes]
    graph._nodes = {make_key(node.operation, required(node.operation, "_inbound_nodes").index(node)) for node in nodes}


def rename_variable(variable: keras.Variable, name: str) -> None:
    """Gives a variable another name, and its path the same one (`_name`, `_path`)."""
    path = required(variable, "_path").removesuffix(required(variable, "_name")) + name
    variable._name, variable._path = name, path


def applying_optimizer() -> keras.optimizers.Optimizer | None:
    """Returns the optimizer that is applying constraints, or None outside of one.

    Optimizers open a scope of their name around it, and Keras keeps the open scopes of a thread in a list.
    """
    _check_scopes()
    callers = [required(scope, "caller") for scope in _open_scopes()]
    optimizers = [caller for caller in callers if isinstance(caller, keras.optimizers.Optimizer)]
    return optimizers[-1] if optimizers else None


def _open_scopes() -> list[Any]:
    return imported("keras.src.backend.common.global_state", "get_global_attribute")("name_scope_stack") or []


@functools.cache
def _check_scopes() -> None:
    # Outside of all scopes there is no list, so whether the name is still in use must be asked inside of one.
    with tf.init_scope(), keras.name_scope("force_tf"):
        if not _open_scopes():
            raise missing("global_state.get_global_attribute('name_scope_stack')", "keras")


def moving_average(optimizer: keras.optimizers.Optimizer, weight: keras.Variable) -> keras.Variable:
    """Returns the average of a weight in an optimizer with `use_ema=True`."""
    index = required(optimizer, "_get_variable_index")(weight)
    return required(optimizer, "_model_variables_moving_average")[index]


def standing_for(tensor: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
    """Lets optimizers and checkpoints take a tensor that a variable shows for the variable, to find what is theirs.

    They know it by `_unique_id`, and by `_shared_name`.
    """
    stored = required(variable, "_value")
    tensor._unique_id, tensor._shared_name = required(stored, "_unique_id"), required(stored, "_shared_name")
    return tensor


def optimizer_slots(optimizer: keras.optimizers.Optimizer, weight: keras.Variable) -> list[keras.Variable]:
    """Returns what an optimizer remembers of each entry of a weight: momenta, averages and accumulated gradients.

    Keras's optimizers keep them in lists in the order of the weights that they train, under many names. One that does
    not train the weight remembers nothing of it.
    """
    if not optimizer.built or not any(each is weight for each in required(optimizer, "_trainable_variables")):
        return []
    index = required(optimizer, "_get_variable_index")(weight)
    count = len(required(optimizer, "_trainable_variables"))
    lists = [value for value in vars(optimizer).values() if isinstance(value, (list, tuple)) and len(value) == count]
    slots = {id(values[index]): values[index] for values in lists if isinstance(values[index], keras.Variable)}
    return [slot for slot in slots.values() if slot is not weight and tuple(slot.shape) == tuple(weight.shape)]


def without_replica_scaling(value: tf.Tensor) -> tf.Tensor:
    """Returns a mean loss as it was before Keras divided it by the replicas of a strategy."""
    return imported("keras.src.losses.loss", "unscale_loss_for_distribution")(value)


def keras_mask(tensor: tf.Tensor) -> tf.Tensor | None:
    """Returns the mask that layers of either Keras have given a tensor, or None (`get_keras_mask`)."""
    return imported("keras.src.backend.common.masking", "get_keras_mask")(tensor)
