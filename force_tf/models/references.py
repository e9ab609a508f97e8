"""Every place where a model refers to a layer in it, and how another layer is put there, in both Kerases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals, user_code
from force_tf.models.keras_models import is_graph, is_layer, is_model, keras_of


def exchange(model: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Puts layers in the places of others, wherever a model refers to them.

    Args:
        model: A model of either Keras.
        pairs: (layer, layer to put in its place).
    """
    new_layers = {id(old): new for old, new in pairs}
    for old, new in pairs:
        _take_over_calls(old, new)
    seen: set[int] = set()
    for holder in holders(model):
        if id(holder) not in new_layers:
            _exchange_in(holder, new_layers, seen)
    for layer in keras_internals.inner_layers(model):
        _forget_traces(layer)
        if isinstance(layer, keras_of(layer).layers.Lambda):
            layer.function = _exchanged(layer.function, new_layers, seen)


def mentions(model: Any, layers: Sequence[Any]) -> Iterator[tuple[Any, str, Any]]:
    """Yields what the code of a model would call layers by, other than those that Keras has for its own ends.

    Args:
        model: A model of either Keras.
        layers: The layers to look for.

    Yields:
        (the model or layer whose code it is, how that refers to the layer, the layer).
    """
    wanted, seen = {id(layer): layer for layer in layers}, set()
    for holder in holders(model):
        for name, value in vars(holder).items():
            if name not in keras_internals.TRACKING_ATTRIBUTES:
                for way, layer in user_code.mentions(value, wanted, seen):
                    yield holder, f"{name}{way}", layer
        for way, layer in user_code.mentions_in_class(type(holder), wanted, seen):
            yield holder, way, layer
    for inner in keras_internals.inner_layers(model):
        if isinstance(inner, keras_of(inner).layers.Lambda):
            for way, layer in user_code.mentions(inner.function, wanted, seen):
                yield inner, f"function{way}", layer


def holders(model: Any) -> list[Any]:
    """Returns a model and the open layers in it: all that may refer to layers of the model."""
    found: dict[int, Any] = {id(model): model}
    queue = [model]

    def visit(item):
        if is_layer(item) and is_open(item) and id(item) not in found:
            found[id(item)] = item
            queue.append(item)

    seen: set[int] = set()
    while queue:
        for value in list(vars(queue.pop()).values()):
            user_code.visit(value, visit, seen)
    return list(found.values())


def is_open(layer: Any) -> bool:
    """Returns whether a layer is a model or the user's own, so that others can be put in the place of those inside it.

    Keras's own layers are closed: `LSTM` and `MultiHeadAttention` expect of the layers inside what a wrapper lacks.
    """
    base = keras_of(layer).layers.Layer
    root = base.__module__.partition(".")[0]
    own = [cls for cls in type(layer).__mro__ if issubclass(cls, base) and cls.__module__.partition(".")[0] == root]
    return is_model(layer) or own == [base]


def _exchanged(value: Any, new_layers: Mapping[int, Any], seen: set[int]) -> Any:
    return user_code.mapped(value, lambda item: new_layers.get(id(item), item), seen)


def _exchange_in(holder, new_layers: Mapping[int, Any], seen: set[int]) -> None:
    new_values = dict(new_layers)  # what comes in the place of layers, and of containers, by the ids of those
    in_order = _in_order_of_keras_3 if keras_of(holder) is keras else _in_order_of_tf_keras
    with in_order(holder, new_values):
        for name, value in list(vars(holder).items()):
            if name in keras_internals.TRACKING_ATTRIBUTES:
                continue  # they learn it from `setattr`
            if id(value) not in new_values:
                new_value = _exchanged(value, new_layers, seen)
                if new_value is value:
                    continue
                new_values[id(value)] = new_value
            setattr(holder, name, new_values[id(value)])
            new_values[id(value)] = getattr(holder, name)  # TensorFlow wraps containers


@contextlib.contextmanager
def _in_order_of_keras_3(holder: Any, new_values: Mapping[int, Any]) -> Iterator[None]:
    """Keeps the order in which a layer of Keras 3 tracks others, while attributes get new values."""
    for old in [layer for layer in keras_internals.listed_layers(holder) if id(layer) in new_values]:
        keras_internals.replace_tracked_layer(holder, old, new_values[id(old)])
    with keras_internals.untracked():  # Keras's tracker would add the new layers as its last
        yield
    if isinstance(holder, keras.Function):
        keras_internals.renew_node_keys(holder)


@contextlib.contextmanager
def _in_order_of_tf_keras(holder: Any, new_values: Mapping[int, Any]) -> Iterator[None]:
    """Keeps the order in which a layer of tf_keras tracks others, while attributes get new values."""
    with keras_internals.tracked_in_order(holder) as tracked:
        try:
            yield
        finally:
            for items in tracked:
                items[:] = [new_values.get(id(item), item) for item in items]
            if is_model(holder) and is_graph(holder) and keras_internals.graph_with_nodes(holder) is not None:
                keras_internals.exchange_keys(holder, lambda layer: new_values.get(id(layer), layer))


def _take_over_calls(old, new) -> None:
    """Makes a layer take the place of another in the graphs of Functional models."""
    keras_internals.take_over_nodes(old, new)
    role = "operation" if keras_of(old) is keras else "layer"
    for node in keras_internals.inbound_nodes(old):
        setattr(node, role, new)
        for tensor in tf.nest.flatten(node.outputs):
            keras_internals.set_history(tensor, **{role: new})


def _forget_traces(layer) -> None:
    """Makes methods of a layer that are under `tf.function` trace anew."""
    for cls in type(layer).__mro__:
        for value in vars(cls).values():
            if isinstance(value, tf.types.experimental.PolymorphicFunction):
                keras_internals.forget_traces(value, layer)
