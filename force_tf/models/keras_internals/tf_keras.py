"""Private names of the legacy tf_keras, which is not imported before an object of it is at hand."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from force_tf.models.keras_internals.required import imported, missing, package_of, required


def is_graph_network(model: Any) -> bool:
    """Returns whether a model of tf_keras is a graph (`_is_graph_network`): Sequential ones are once they have one."""
    return required(model, "_is_graph_network")


def is_legacy_optimizer(optimizer: Any) -> bool:
    """Returns whether an optimizer is one of `tf_keras.optimizers.legacy`."""
    return package_of(optimizer) == "tf_keras" and isinstance(
        optimizer, sys.modules["tf_keras"].optimizers.legacy.Optimizer
    )


def optimizer_slots(optimizer: Any, weight: Any) -> list[Any]:
    """Returns what an optimizer remembers of each entry of a weight: momenta, averages and accumulated gradients.

    The legacy optimizers keep them by name, the others in lists in the order of the weights that they train
    (`_index_dict`, `_var_key`). One that does not train the weight remembers nothing of it.
    """
    weight = without_autocast(weight)
    if is_legacy_optimizer(optimizer):
        try:
            slots = [optimizer.get_slot(weight, name) for name in optimizer.get_slot_names()]
        except KeyError:
            return []
    elif not getattr(optimizer, "_built", False):
        return []
    else:
        indices = required(optimizer, "_index_dict")
        index = indices.get(required(optimizer, "_var_key")(weight))
        if index is None:
            return []
        lists = [value for value in vars(optimizer).values() if isinstance(value, list) and len(value) == len(indices)]
        slots = list({id(values[index]): values[index] for values in lists}.values())
    slots = [slot for slot in slots if hasattr(slot, "assign") and slot is not weight]
    return [slot for slot in slots if tuple(slot.shape) == tuple(weight.shape)]


def applying_tf_keras_optimizer() -> Any | None:
    """Returns the optimizer that is applying constraints, or None outside of one.

    tf_keras tells a constraint nothing of it. It is the `self` of the method that has called the constraint, which only
    happens while a step is traced, or in every step of a model that runs eagerly.
    """
    optimizers = sys.modules["tf_keras"].optimizers
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, (optimizers.Optimizer, optimizers.legacy.Optimizer)):
            return caller
        frame = frame.f_back
    return None


def random_generators(layers: Iterable[Any]) -> list[Any]:
    """Returns the generators of random layers, which hold their seeds outside of all variables.

    Each has `_generator`, None or a `tf.random.Generator`, and `_seed`, counted up whenever the layer is traced.
    """
    mine = [layer for layer in layers if package_of(layer) == "tf_keras"]
    if not mine:
        return []
    random_layer = imported("tf_keras.src.engine.base_layer", "BaseRandomLayer")
    return [RandomGenerator(required(layer, "_random_generator")) for layer in mine if isinstance(layer, random_layer)]


class RandomGenerator:
    """The random generator of a layer of tf_keras.

    Args:
        generator: That of tf_keras.
    """

    def __init__(self, generator: Any):
        self._of_keras = generator

    @property
    def state(self) -> Any | None:
        """The variable that holds its state, or None: some have only a seed, others make it when they are called."""
        generator = required(self._of_keras, "_generator") if self._has_state() else None
        return None if generator is None else generator.state

    def _has_state(self) -> bool:
        # Made when the layer is built, so a layer that is not has neither this nor the other.
        return required(self._of_keras, "_built")

    @property
    def seed(self) -> int | None:
        """The seed of the next operation."""
        return required(self._of_keras, "_seed")

    @seed.setter
    def seed(self, value: int | None) -> None:
        self._of_keras._seed = value


def set_dtype_policy(model: Any, policy: Any) -> None:
    """Gives a layer or model a dtype policy (`_set_dtype_policy`), which the public property does not allow."""
    required(model, "_set_dtype_policy")(policy)


def without_autocast(variable: Any) -> Any:
    """Returns the variable of TensorFlow around which mixed precision has put another (`_variable`), or itself."""
    if package_of(variable) != "tf_keras":
        return variable
    autocast = imported("tf_keras.src.mixed_precision.autocast_variable", "AutoCastVariable")
    return required(variable, "_variable") if isinstance(variable, autocast) else variable


def computing_like(layer: Any) -> AbstractContextManager:
    """Reads variables in the dtype in which a layer computes, for a block, as its `call` does."""
    scope = imported("tf_keras.src.mixed_precision.autocast_variable", "enable_auto_cast_variables")
    return scope(required(layer, "_compute_dtype_object"))


def autocasts(layer: Any) -> bool:
    """Returns whether a layer casts its inputs to the dtype in which it computes (`_autocast`)."""
    return required(layer, "_autocast")


def call_spec(layer: Any) -> Any:
    """Returns what a layer knows of its `call`, by which tf_keras binds and fills in arguments (`_call_spec`)."""
    return required(layer, "_call_spec")


def batch_input_shape(layer: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of inputs that a layer was made with (`_batch_input_shape`), or None if it was not told."""
    _check_batch_input_shape()
    return getattr(layer, "_batch_input_shape", None)


@functools.cache
def _check_batch_input_shape() -> None:
    # Only layers that were told a shape have it, so whether the name is still in use must be asked of such a one. It is
    # named, as tf_keras counts the names that it makes.
    layers = importlib.import_module("tf_keras").layers
    if getattr(layers.Flatten(input_shape=(3,), name="force_tf"), "_batch_input_shape", None) != (None, 3):
        raise missing("Layer._batch_input_shape", "tf_keras")


def function_losses(layer: Any) -> list[Any]:
    """Returns the list of losses that a layer adds as functions, regularization among them (`_callable_losses`)."""
    return required(layer, "_callable_losses")


@contextlib.contextmanager
def tracked_in_order(holder: Any) -> Iterator[list[list[Any]]]:
    """Lends copies of the lists in which a layer tracks others, and sets the lists to them when the block ends.

    tf_keras adds what is new in an attribute as the last (`_self_tracked_trackables`, `_metrics`).
    """
    names = ("_self_tracked_trackables", "_metrics")
    for name in names:
        if name not in vars(holder):
            raise missing(f"{type(holder).__name__}.{name}", "tf_keras")
    lists = [list(vars(holder)[name]) for name in names]
    try:
        yield lists
    finally:
        for name, items in zip(names, lists):
            vars(holder)[name] = items


def exchange_keys(graph: Any, exchanged: Callable[[Any], Any]) -> None:
    """Puts other layers in the places of those that are keys of a graph's dict (`_layer_call_argspecs`)."""
    specs = required(graph, "_layer_call_argspecs")
    # Past the `__setattr__` of tf_keras, which would track the dict.
    vars(graph)["_layer_call_argspecs"] = {exchanged(layer): spec for layer, spec in specs.items()}


def writes_saved_model() -> bool:
    """Returns whether tf_keras asks for configurations because it is writing a SavedModel."""
    return imported("tf_keras.src.saving.serialization_lib", "in_tf_saved_model_scope")()
