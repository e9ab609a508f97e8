"""Every place where a model refers to a layer in it, and how another layer is put there, in both Kerases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.ops.function import make_node_key
from keras.src.utils.tracking import DotNotTrackScope

from force_tf.models.keras_models import is_layer, is_model, keras_of


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
    for layer in model._flatten_layers():
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
            if name.startswith("_self_"):
                continue  # TensorFlow's own tracker, which learns it from `setattr`
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
    for old in [layer for layer in holder._layers if id(layer) in new_values]:
        holder._tracker.replace_tracked_value("layers", old, new_values[id(old)])
    with DotNotTrackScope():  # Keras's tracker would add the new layers as its last
        yield
    if isinstance(holder, keras.Function):
        nodes = [node for nodes in holder._nodes_by_depth.values() for node in nodes]
        holder._nodes = {make_node_key(n.operation, n.operation._inbound_nodes.index(n)) for n in nodes}


@contextlib.contextmanager
def _in_order_of_tf_keras(holder: Any, new_values: Mapping[int, Any]) -> Iterator[None]:
    """Keeps the order in which a layer of tf_keras tracks others, while attributes get new values."""
    attributes = vars(holder)
    tracked = {name: list(attributes[name]) for name in ("_self_tracked_trackables", "_metrics")}
    try:
        yield
    finally:  # tf_keras has added what is new as the last
        for name, items in tracked.items():
            attributes[name] = [new_values.get(id(item), item) for item in items]
        if "_layer_call_argspecs" in attributes:  # of graphs
            specs = attributes["_layer_call_argspecs"]
            attributes["_layer_call_argspecs"] = {new_values.get(id(key), key): spec for key, spec in specs.items()}


def _take_over_calls(old, new) -> None:
    """Makes a layer take the place of another in the graphs of Functional models."""
    of_keras_3 = keras_of(old) is keras
    for nodes in ("_inbound_nodes", "_outbound_nodes"):
        # Past the `__setattr__` of Keras 3, which would copy the list.
        vars(new)[nodes if of_keras_3 else f"{nodes}_value"] = getattr(old, nodes)
    role = "operation" if of_keras_3 else "layer"
    for node in old._inbound_nodes:
        setattr(node, role, new)
        for tensor in tf.nest.flatten(node.outputs):
            tensor._keras_history = tensor._keras_history._replace(**{role: new})


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
                value._descriptor_cache.pop(layer, None)
