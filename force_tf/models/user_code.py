"""What a model's own code keeps layers in: containers, partials, bound methods, closures, objects, traced functions."""

from __future__ import annotations

import collections
import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import is_layer, keras_of

# Packages whose objects and functions are not looked into: they hold layers in their own way, or none.
_LIBRARIES = {"force_tf", "keras", "numpy", "tensorflow", "tensorflow_model_optimization", "tf_keras", "wrapt"}
# Where Keras enters the code of a model, once it is built.
_ENTRIES = ("__call__", "call", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")
# What data consists of; containers of nothing else may be large.
_SCALARS = {type(None), str, bytes, bool, int, float, complex}
_LARGEST_GLOBAL = 1000  # items: longer ones are data

_CALLS = ("__call__", "call")
_Traced = tf.types.experimental.PolymorphicFunction


def mapped(value: Any, function: Callable[[Any], Any], seen: set[int]) -> Any:
    """Replaces what an object of the model's own code holds, to any depth, by a function of it.

    Args:
        value: A value of an attribute.
        function: Given what holds nothing, layers among it, returns what to put in its place.
        seen: The ids of the objects that were changed already; those of this one are added.

    Returns:
        The same object, changed in place. A new one, if anything in it has changed, of what cannot change (tuples,
        partials, methods), and of what TensorFlow tracks itself: it saves nothing that was changed behind its back. Of
        anything else, the function.
    """
    kept = parts(value)
    if kept is None:
        return function(value)
    if id(value) in seen:
        return value
    changes_itself = not isinstance(value, (tuple, frozenset, functools.partial, types.MethodType, _Traced))
    if changes_itself and not _is_trackable_container(value):
        seen.add(id(value))
    items = [mapped(item, function, seen) for _, item in kept]
    if all(new is old for new, (_, old) in zip(items, kept)) and not _is_stale(value):
        return value
    return _with_parts(value, items)


def visit(value: Any, function: Callable[[Any], None], seen: set[int]) -> None:
    """Calls a function with all that an object of the model's own code holds, to any depth, and changes nothing.

    Args:
        value: A value of an attribute.
        function: Is given what holds nothing, layers among it.
        seen: The ids of the objects that were visited already; those of this one are added.
    """
    kept = parts(value)
    if kept is None:
        function(value)
    elif id(value) not in seen:
        seen.add(id(value))
        for _, item in kept:
            visit(item, function, seen)


def mentions(value: Any, layers: Mapping[int, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields (the way to it, layer) of every layer that an object of the model's own code would call or hand on.

    Args:
        value: A value of an attribute.
        layers: The layers to look for, by their ids.
        seen: The ids of the objects that were looked into already; those of this one are added.
    """
    if id(value) in layers:
        yield "", layers[id(value)]
        return
    kept = parts(value)
    if kept is None or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, types.MethodType) and id(value.__self__) in layers and _is_of_keras(value):
        return  # such as `count_params`: they ask a layer, and do not call it
    for name, item in kept:
        for way, layer in mentions(item, layers, seen):
            yield f"{name}{way}", layer
    if isinstance(value, types.FunctionType):
        yield from _mentions_in_globals(value, layers, seen)


def mentions_in_class(cls: type, layers: Mapping[int, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields (the way to it, layer) of every layer that a class itself, or a method that Keras enters, refers to.

    Args:
        cls: The class of a model or layer.
        layers: The layers to look for, by their ids.
        seen: As for `mentions`.
    """
    own = {}
    for base in reversed(cls.__mro__):
        if not _is_library(base.__module__):
            own.update(vars(base))
    methods = {name: _function_of(attribute) for name, attribute in own.items()}
    names = [name for name in _ENTRIES if methods.get(name) is not None]
    for name in names:  # which grows
        names += [
            other for other in _names(methods[name].__code__) if methods.get(other) is not None and other not in names
        ]
        for way, layer in mentions(methods[name], layers, seen):
            yield f"{name}{way}", layer
    for name, attribute in own.items():
        if methods[name] is None:
            for way, layer in mentions(attribute, layers, seen):
                yield f"{name}{way}", layer


def parts(value: Any) -> list[tuple[str, Any]] | None:
    """Returns (how to write it, item) of what an object holds, or None of what is not looked into, such as layers."""
    if type(value) in _SCALARS:
        return None
    if isinstance(value, dict):
        if {*map(type, value), *map(type, value.values())} <= _SCALARS:
            return None
        return [*((f".keys()[{i}]", key) for i, key in enumerate(value)), *((f"[{k!r}]", v) for k, v in value.items())]
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        if {*map(type, value)} <= _SCALARS:
            return None
        return [(f"[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, functools.partial):
        keywords = [(f".keywords[{name!r}]", item) for name, item in value.keywords.items()]
        return [(".func", value.func), *((f".args[{i}]", item) for i, item in enumerate(value.args)), *keywords]
    if isinstance(value, types.MethodType):
        return [(".__self__", value.__self__)]
    if isinstance(value, _Traced):
        function = value.python_function
        is_keras_own = isinstance(function, types.FunctionType) and _is_library(function.__module__)
        return None if is_keras_own else [(".python_function", function)]
    if isinstance(value, types.FunctionType):
        return None if _is_library(value.__module__) or _is_made_by_keras(value) else _parts_of_function(value)
    return _parts_of_object(value)


def _parts_of_function(function: types.FunctionType) -> list[tuple[str, Any]]:
    cells = [(f"'s {name!r}", cell.cell_contents) for name, cell in _filled_cells(function)]
    defaults = [(f".__defaults__[{i}]", item) for i, item in enumerate(function.__defaults__ or ())]
    keywords = [(f".__kwdefaults__[{name!r}]", item) for name, item in (function.__kwdefaults__ or {}).items()]
    return [*cells, *defaults, *keywords]


def _filled_cells(function: types.FunctionType) -> list[tuple[str, types.CellType]]:
    def is_filled(cell):
        try:
            return cell.cell_contents is not None
        except ValueError:  # of a variable that is not assigned yet
            return False

    return [pair for pair in zip(function.__code__.co_freevars, function.__closure__ or ()) if is_filled(pair[1])]


def _parts_of_object(value: Any) -> list[tuple[str, Any]] | None:
    """Returns the attributes of an object of a class that is no library's, or None of any other."""
    if is_layer(value) or isinstance(value, (type, types.ModuleType)):
        return None
    if _is_library(type(value).__module__) and not isinstance(value, types.SimpleNamespace):
        return None
    return [(f".{name}", item) for name, item, _ in _attributes(value)]


def _attributes(value: Any) -> list[tuple[str, Any, Callable[[Any], None]]]:
    """Returns (name, value, what sets it) of the attributes that an object holds itself."""
    found = []
    for name, item in list(getattr(value, "__dict__", {}).items()):
        if isinstance(value, tf.__internal__.tracking.Trackable):
            found.append((name, item, functools.partial(setattr, value, name)))
        else:  # past `__setattr__`, which a frozen dataclass refuses
            found.append((name, item, functools.partial(value.__dict__.__setitem__, name)))
    for cls in type(value).__mro__:
        for name, slot in vars(cls).items():
            if (
                isinstance(slot, types.MemberDescriptorType)
                and not _is_library(cls.__module__)
                and hasattr(value, name)
            ):
                found.append((name, slot.__get__(value), functools.partial(slot.__set__, value)))
    return found


def _with_parts(value: Any, items: Sequence[Any]) -> Any:
    """Puts items in the place of the `parts` of an object, and returns it, or a new one."""
    if isinstance(value, dict):
        return _with_entries(value, dict(zip(items[: len(items) // 2], items[len(items) // 2 :])))
    if isinstance(value, set):
        old = list(value)
        for item, new in zip(old, items):
            if new is not item:
                value.remove(item)
                value.add(new)
        return value
    if isinstance(value, (list, collections.deque)):
        if _is_trackable_container(value):
            return list(items)
        for i, (item, new) in enumerate(zip(list(value), items)):
            if new is not item:
                value[i] = new
        return value
    if isinstance(value, tuple):
        return value.__class__(*items) if hasattr(value, "_fields") else value.__class__(items)
    if isinstance(value, frozenset):
        return value.__class__(items)
    if isinstance(value, functools.partial):
        count = 1 + len(value.args)
        new = type(value)(*items[:count], **dict(zip(value.keywords, items[count:])))
        vars(new).update(vars(value))
        return new
    if isinstance(value, types.MethodType):
        return _method_of(value, items[0])
    if isinstance(value, _Traced):
        return keras_internals.untraced(value, items[0])
    if isinstance(value, types.FunctionType):
        return _with_function_parts(value, items)
    for (_, old, assign), new in zip(_attributes(value), items):
        if new is not old:
            assign(new)
    return value


def _with_entries(value: dict, entries: dict) -> dict:
    if _is_trackable_container(value):
        return entries
    if all(new is old for new, old in zip(entries, value)):
        for key, new in entries.items():
            if new is not value[key]:
                value[key] = new
        return value
    # Past the methods of Keras's own dicts, which would forget the layers.
    base = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
    base.clear(value)
    base.update(value, entries)
    return value


def _with_function_parts(function: types.FunctionType, items: Sequence[Any]) -> types.FunctionType:
    cells, defaults = _filled_cells(function), function.__defaults__ or ()
    for (_, cell), new in zip(cells, items):
        if new is not cell.cell_contents:
            cell.cell_contents = new
    if defaults:
        function.__defaults__ = tuple(items[len(cells) : len(cells) + len(defaults)])
    if function.__kwdefaults__:
        function.__kwdefaults__ = dict(zip(function.__kwdefaults__, items[len(cells) + len(defaults) :]))
    return function


def _method_of(method: types.MethodType, new: Any) -> types.MethodType:
    """Returns the method of another object, or the same one if that does not have it, or is asked by it, not called."""
    old = method.__self__
    if is_layer(old) and (method.__name__ not in _CALLS or getattr(old, method.__name__) != method):
        return method
    return getattr(new, method.__name__)


def _is_of_keras(method: types.MethodType) -> bool:
    base = keras_of(method.__self__).layers.Layer
    return method.__name__ not in _CALLS and hasattr(base, method.__name__)


def _is_stale(value: Any) -> bool:
    """Returns whether a function may have traced layers that are no longer there, deeper inside."""
    return isinstance(value, _Traced) and value.experimental_get_tracing_count() > 0


def _is_made_by_keras(function: types.FunctionType) -> bool:
    """Returns whether a function is what Keras 3 has put around the `build` or `quantize` of a layer."""
    return is_layer(getattr(getattr(function, "__wrapped__", None), "__self__", None))


def _is_trackable_container(value: Any) -> bool:
    # TensorFlow wraps the containers of a layer, but shows their class.
    return isinstance(value, (list, dict)) and isinstance(value, tf.__internal__.tracking.Trackable)


def _is_library(module: str | None) -> bool:
    root = (module or "builtins").partition(".")[0]
    return root in _LIBRARIES or root in sys.stdlib_module_names


def _function_of(attribute: Any) -> types.FunctionType | None:
    """Returns the plain function behind an attribute of a class, or None if it is none."""
    if isinstance(attribute, _Traced):
        attribute = attribute.python_function
    if isinstance(attribute, property):
        attribute = attribute.fget
    attribute = getattr(attribute, "__func__", attribute)  # of a static or class method
    return attribute if isinstance(attribute, types.FunctionType) else None


def _mentions_in_globals(function, layers, seen) -> Iterator[tuple[str, Any]]:
    for name in _names(function.__code__, of_globals=True):
        value = function.__globals__.get(name)
        if isinstance(value, (list, tuple, dict, set)) and len(value) > _LARGEST_GLOBAL:
            continue
        for way, layer in mentions(value, layers, seen):
            yield f"'s global {name}{way}", layer


def _names(code: types.CodeType, of_globals: bool = False) -> list[str]:
    """Returns the names that code, and the functions in it, look up: all of them, or those of global variables."""
    names = list(code.co_names)
    if of_globals:
        names = [each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return list(dict.fromkeys([*names, *(name for each in inner for name in _names(each, of_globals))]))
