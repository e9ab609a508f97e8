"""Digests of traced graphs, by which a graph that was converted before is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Names of functions for gradients, which inference does not call, and which have new numbers in each trace.
_OF_GRADIENTS = ("_gradient_op_type", "forward_function_name", "backward_function_name")


def graph_digest(function: Any, values: Mapping[int, np.ndarray]) -> str | None:
    """Returns a digest of all that a traced function computes with.

    Equal digests are of equal graphs and values. Graphs that differ in nothing but the numbers that tracing gives to
    functions have equal ones too.

    Args:
        function: A traced function of TensorFlow's.
        values: The values of the variables, by the ids of their handles.

    Returns:
        The digest; None if the function reads something whose content is not known here, such as a table.
    """
    definition = function.graph.as_graph_def()
    graph = _Graph(definition)
    found = hashlib.sha256(repr(sorted(function.structured_outputs)).encode())
    for node in definition.node:
        found.update(graph.of_node(node))
    for outside, inside in function.graph.captures:
        value = values.get(id(outside))
        if value is None:
            if outside.dtype in (tf.resource, tf.variant) or not hasattr(outside, "numpy"):
                return None
            value = np.asarray(outside.numpy())
        found.update(f"{inside.name} {value.dtype} {value.shape}".encode())
        found.update(np.ascontiguousarray(value).tobytes() if value.dtype != object else repr(value.tolist()).encode())
    return found.hexdigest()


class _Graph:
    """A graph's nodes and functions, to be known by what they are instead of by the names of functions."""

    def __init__(self, definition: Any):
        self._functions = {each.signature.name: each for each in definition.library.function}
        self._digests: dict[str, str] = {}

    def of_node(self, node: Any) -> bytes:
        """Returns what tells a node from others."""
        copy = type(node)()
        copy.CopyFrom(node)
        copy.op = self._renamed(node.op)
        self._rename_in(copy.attr)
        return copy.SerializeToString(deterministic=True)

    def _of_function(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = self._digest(name)
        return self._digests[name]

    def _digest(self, name: str) -> str:
        copy = type(self._functions[name])()
        copy.CopyFrom(self._functions[name])
        copy.signature.name = ""
        nodes = sorted(self.of_node(node) for node in copy.node_def)
        del copy.node_def[:]
        self._rename_in(copy.attr)
        parts = [copy.SerializeToString(deterministic=True), *nodes]
        # Arguments of loops are named after the function.
        return hashlib.sha256(b"".join(parts).replace(name.encode(), b"")).hexdigest()

    def _rename_in(self, attributes: Any) -> None:
        for name in _OF_GRADIENTS:
            attributes.pop(name, None)
        for value in attributes.values():
            for function in [value.func] * value.HasField("func") + list(value.list.func):
                function.name = self._renamed(function.name)

    def _renamed(self, name: str) -> str:
        return self._of_function(name) if name in self._functions else name
