"""Every place where a model refers to a layer in it, and how another layer is put there, in both Kerases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals
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
    for holder in holders(model):
        _exchange_in(holder, new_layers)
    for layer in keras_internals.inner_layers(model):
        _forget_traces(layer)


def holders(model: Any) -> list[Any]:
    """Returns a model and the open layers in it: all that may refer to layers of the model."""
    found: dict[int, Any] = {id(model): model}
    queue = [model]

    def visit(item):
        if is_layer(item) and is_open(item) and id(item) not in found:
            found[id(item)] = item
            queue.append(item)
        return item

    while queue:
        for value in list(vars(queue.pop()).values()):
            _map_items(value, visit)
    return list(found.values())


def is_open(layer: Any) -> bool:
    """Returns whether a layer is a model or the user's own, so that others can be put in the place of those inside it.

    Keras's own layers are closed: `LSTM` and `MultiHeadAttention` expect of the layers inside what a wrapper lacks.
    """
    base = keras_of(layer).layers.Layer
    root = base.__module__.partition(".")[0]
    own = [cls for cls in type(layer).__mro__ if issubclass(cls, base) and cls.__module__.partition(".")[0] == root]
    return is_model(layer) or own == [base]


def _exchange_in(holder, new_layers: Mapping[int, Any]) -> None:
    new_values = dict(new_layers)  # what comes in the place of layers, and of containers, by the ids of those
    in_order = _in_order_of_keras_3 if keras_of(holder) is keras else _in_order_of_tf_keras
    with in_order(holder, new_values):
        for name, value in list(vars(holder).items()):
            if name in keras_internals.TRACKING_ATTRIBUTES:
                continue  # they learn it from `setattr`
            if id(value) not in new_values:
                new_value = _map_items(value, lambda item: new_layers.get(id(item), item))
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


def _forget_traces(layer) -> None:
    """Makes methods of a layer that are under `tf.function` trace anew."""
    for cls in type(layer).__mro__:
        for value in vars(cls).values():
            if isinstance(value, tf.types.experimental.PolymorphicFunction):
                keras_internals.forget_traces(value, layer)
