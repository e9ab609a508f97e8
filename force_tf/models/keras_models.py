"""What force_tf asks of a Keras model as a whole: is it usable, what are its inputs, and what is its state."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals


def keras_of(item: Any) -> ModuleType | None:
    """Returns the Keras that a model, layer, loss or other object is made of: the module `keras` or `tf_keras`.

    Args:
        item: Any object, or a class.

    Returns:
        The module, or None for what belongs to neither. `tf_keras` is never imported for the answer.
    """
    for cls in (item if isinstance(item, type) else type(item)).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("keras", "tf_keras"):
            return sys.modules[root]
    return None


def is_model(item: Any) -> bool:
    """Returns whether an object is a model of Keras 3 or of `tf_keras`."""
    module = keras_of(item)
    return module is not None and isinstance(item, module.Model)


def is_layer(item: Any) -> bool:
    """Returns whether an object is a layer or model of Keras 3 or of `tf_keras`."""
    module = keras_of(item)
    return module is not None and isinstance(item, module.layers.Layer)


def overrides(model: Any, method: str) -> bool:
    """Returns whether a method of a model is not Keras's own."""
    if method in vars(model):
        return True
    owner = next(cls for cls in type(model).__mro__ if method in vars(cls))
    return owner.__module__.partition(".")[0] not in ("keras", "tf_keras")


def tf_variable(variable: Any) -> tf.Variable:
    """Returns the TensorFlow variable behind one of either Keras, past all casts to a layer's compute dtype."""
    # Inside the scope of a strategy a variable stands for one on each device, and has no gradient; the first does.
    return tf.distribute.get_strategy().experimental_local_results(whole_variable(variable))[0]


def whole_variable(variable: Any) -> tf.Variable | tf.distribute.DistributedValues:
    """Returns what `tf_variable` does, but of a variable of a strategy that which stands for all of its copies."""
    # tf_keras wraps those of mixed precision.
    return variable.value if isinstance(variable, keras.Variable) else keras_internals.without_autocast(variable)


def array_variables(item: Any) -> list[Any]:
    """Returns the variables of a model or layer of either Keras.

    tf_keras lists the tables of its lookups among them, which hold no array and cannot be assigned.
    """
    return [variable for variable in item.variables if isinstance(variable, (keras.Variable, tf.Variable))]


def state_variables(model: Any) -> list[Any]:
    """Returns the variables that hold the states of a model's stateful layers, of either Keras, from call to call.

    Keras 3 does not list them among the variables of a model.
    """
    layers = (layer for layer in keras_internals.inner_layers(model) if getattr(layer, "stateful", False))
    states = (keras.tree.flatten(getattr(layer, "states", None)) for layer in layers)
    return [state for layer_states in states for state in layer_states if hasattr(state, "assign")]


def call_traced(traced: tf.types.experimental.PolymorphicFunction, *arguments: Any) -> Any:
    """Calls a `tf.function`. Of traces that are asked for TensorFlow does not warn, however many searches make some."""
    traced.get_concrete_function(*arguments)
    return traced(*arguments)


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns the arguments that a model was compiled with, the objects themselves; an empty dict if it was not."""
    return dict(keras_internals.compiled_arguments(model)) if keras_internals.is_compiled(model) else {}


def check_same_keras(model: Any, **others: Any) -> None:
    """Raises if one of the objects is made of another Keras than the model.

    Args:
        model: A model of either Keras.
        **others: Objects under the names of their arguments. What belongs to no Keras passes.

    Raises:
        TypeError: It says which object is which, and what to change.
    """
    expected = keras_of(model)
    for name, item in others.items():
        found = keras_of(item)
        if found not in (None, expected):
            raise TypeError(
                f"Expected `{name}` to be of the same Keras as the model: make it with `{expected.__name__}` instead. "
                f"Received: a model {model.name!r} of {expected.__name__} and "
                f"{name}={type(item).__name__} of {found.__name__}"
            )


def check_model(model: Any) -> None:
    """Raises unless `model` is a built model of Keras 3, on the TensorFlow backend, or of `tf_keras`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If Keras runs on another backend, or the model has no weights yet or no `call`.
    """
    if not is_model(model):
        raise TypeError(f"Expected a model of keras or tf_keras. Received: {type(model).__name__}")
    if keras_of(model) is keras and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras on the TensorFlow backend (set KERAS_BACKEND=tensorflow before Keras is imported). "
            f"Received: the {keras.backend.backend()!r} backend."
        )
    if not model.built:
        check_has_call(model)
        raise ValueError(
            "Expected a model that is built, so that its weights exist: give it an Input, call `model.build(shape)`, "
            f"or call it on a batch. Received: the unbuilt model {model.name!r}"
        )


def check_has_call(model: Any) -> None:
    """Raises unless a model computes an output, as those do not that only train others, such as a GAN.

    Raises:
        ValueError: If it has no `call`; it names the models in it.
    """
    module = keras_of(model)
    owner = next((cls for cls in type(model).__mro__ if "call" in vars(cls)), None)
    if is_graph(model) or "call" in vars(model) or owner not in (module.Model, module.layers.Layer):
        return
    parts = [f"`model.{name}`" for name, value in vars(model).items() if not name.startswith("_") and is_model(value)]
    what = f", each by itself: {' or '.join(parts)}" if parts else ""
    raise ValueError(
        f"Expected a model that can be called; one that only trains others is pruned by the models in it{what}. "
        f"Received: the model {model.name!r} of class {type(model).__name__}, which has no `call`"
    )


def check_inputs(model: Any, inputs: Any) -> None:
    """Raises unless a batch of inputs has the shape that a model with one input declares.

    Raises:
        ValueError: If it has not; Keras would say so in many lines.
    """
    declared = getattr(model, "inputs", None) or []
    if len(declared) != 1 or not isinstance(inputs, (tf.Tensor, tf.SparseTensor, tf.RaggedTensor)):
        return
    expected, shape = declared[0].shape, tuple(inputs.shape)
    # As in `fit`, a last axis of size 1 may be missing or in excess.
    spellings = [shape, *([shape[:-1]] if shape[-1:] == (1,) else []), *([(*shape, 1)] if expected[-1] == 1 else [])]
    if not any(len(s) and tf.TensorShape(expected[1:]).is_compatible_with(s[1:]) for s in spellings):
        raise ValueError(
            f"Expected batches of inputs of shape {expected}, the batch size first. Received: inputs of shape {shape}"
        )


def fixed_batch_size(model: Any) -> int | None:
    """Returns the batch size that a model was built for, or None if it takes any."""
    sizes = {tensor.shape[0] for tensor in tf.nest.flatten(getattr(model, "inputs", None) or []) if len(tensor.shape)}
    return max((size for size in sizes if size is not None), default=None)


def input_specs(model: Any, batches: Any = None) -> Any:
    """Returns the type specs of a model's inputs, in its own structure, with all sizes but the batch size known.

    Args:
        model: A built Keras model.
        batches: `Batches` that tell what the model does not, or None.

    Raises:
        ValueError: If neither tells all sizes.
    """
    if isinstance(model, keras_of(model).Sequential):
        inputs = model.inputs[0] if model.inputs else None
    else:
        inputs = model.input if getattr(model, "inputs", None) else None
    known = inputs is not None and all(None not in tensor.shape[1:] for tensor in tf.nest.flatten(inputs))
    if not known and batches is not None:
        inputs = batches.first.x
        known = all(None not in tensor.shape[1:] for tensor in tf.nest.flatten(inputs))  # unlike those of ragged ones
    if not known:
        shapes = (
            [tuple(tensor.shape) for tensor in tf.nest.flatten(inputs)] if inputs is not None else "no known inputs"
        )
        raise ValueError(
            "Expected a model whose input shapes are fully known; pass `data` that is not ragged to tell them. "
            f"Received: the model {model.name!r} with input shapes {shapes}"
        )
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), inputs)


def is_graph(layer: Any) -> bool:
    """Returns whether a layer is a Functional or Sequential model, whose layers can be replaced one by one."""
    module = keras_of(layer)
    if module is keras:
        return isinstance(layer, (keras.Sequential, keras.Function))
    return is_model(layer) and (isinstance(layer, module.Sequential) or keras_internals.is_graph_network(layer))


def check_is_graph(model: Any) -> None:
    """Raises unless the layers of a model can be replaced.

    Raises:
        NotCopyableError: If it is neither Functional nor Sequential.
    """
    if not is_graph(model):
        raise NotCopyableError(
            "Expected a Functional or Sequential model: the layers of a subclassed model are called by its own code "
            f"and cannot be replaced from outside. Received: {model.name!r} of class {type(model).__name__}"
        )


class NotCopyableError(ValueError):
    """A model, or a layer in it, of which Keras can make no copy."""


def keras_classes(layer_class: type) -> list[type]:
    """The classes of either Keras that a layer class derives from, itself included."""
    return [cls for cls in layer_class.__mro__ if cls.__module__.partition(".")[0] in ("keras", "tf_keras")]


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Puts Python's random state back when the block ends: Keras draws seeds from it when it builds layers."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
