"""Private names of TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from force_tf.models.keras_internals.required import imported, required

#: Where TensorFlow and tf_keras keep what they track of a layer. Attributes of the user's may begin alike.
TRACKING_ATTRIBUTES = frozenset(
    {
        "_self_extra_variables",
        "_self_name_based_restores",
        "_self_saveable_object_factories",
        "_self_setattr_tracking",
        "_self_tracked_trackables",
        "_self_unconditional_checkpoint_dependencies",
        "_self_unconditional_deferred_dependencies",
        "_self_unconditional_dependency_names",
        "_self_update_uid",
    }
)


def forget_traces(function: tf.types.experimental.PolymorphicFunction, instance: Any) -> None:
    """Makes a method under `tf.function` trace anew when it is next called on an object (`_descriptor_cache`)."""
    required(function, "_descriptor_cache").pop(instance, None)


def untraced(function: tf.types.experimental.PolymorphicFunction, python_function: Any) -> Any:
    """Returns a function with the options of another under `tf.function`, of other code and not traced (`_clone`)."""
    return required(function, "_clone")(python_function)


def lookup_dependency(item: Any, name: str) -> Any | None:
    """Returns what a checkpoint would restore under a name in an object, or None."""
    return required(item, "_lookup_dependency")(name, required(item, "_trackable_children")())


def track(holder: Any, name: str, item: Any) -> None:
    """Makes an object a dependency of another by a name, and restores it if a checkpoint was read that has it.

    `_track_trackable`, `_handle_deferred_dependencies`: public are only attributes.
    """
    required(holder, "_track_trackable")(item, name)
    required(holder, "_handle_deferred_dependencies")(name, item)


def resource_variable_class() -> type:
    """Returns the class of the variables that tf_keras makes: `tf.Variable` itself only stands for it."""
    return imported("tensorflow.python.ops.resource_variable_ops", "ResourceVariable")


def set_constraint(variable: tf.Variable, constraint: Any) -> None:
    """Gives a variable the function that optimizers apply after each step (`_constraint`)."""
    required(variable, "_constraint")
    variable._constraint = constraint


def per_replica_spec(spec: tf.TypeSpec, replicas: int) -> tf.TypeSpec:
    """Returns the type spec of a value of which each replica of this process has its own (`PerReplicaSpec`)."""
    return imported("tensorflow.python.distribute.values", "PerReplicaSpec")(*[spec] * replicas)
