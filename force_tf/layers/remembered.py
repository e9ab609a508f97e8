"""What a training keeps beside a masked weight for a training that goes on: counts, marks, values under the mask."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf


class Remembered:
    """Arrays of the shape of a weight, by name, that wrappers write into their files.

    They are in no model's weights: a model that was never trained so lacks them, and loads the same files. What a file
    brings along waits until it is asked for.

    Args:
        track: Takes a name and what is made under it, and lets checkpoints of TensorFlow find it.
    """

    def __init__(self, track: Callable[[str, Any], None]):
        self._track = track
        self._waiting: dict[str, np.ndarray] = {}
        self._variables: dict[str, tf.Variable] = {}
        self._followed: dict[str, Callable[[], np.ndarray | None]] = {}

    def variable(self, name: str, shape: Any, dtype: Any) -> tf.Variable:
        """Returns the variable of a name, made of what a file brought along, or of zeros.

        Args:
            name: What it is.
            shape: Its shape.
            dtype: Its type.
        """
        if name not in self._variables:
            self._variables[name] = tf.Variable(
                tf.cast(self._waiting.pop(name, np.zeros(shape)), dtype),
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            self._track(name, self._variables[name])
        return self._variables[name]

    def follow(self, name: str, read: Callable[[], np.ndarray | None]) -> None:
        """Writes under a name, from now on, an array that stands elsewhere; what a file brings along is to be taken.

        Args:
            name: What it is.
            read: Returns the array as it is when a file is written, or None if there is none.
        """
        if name not in self._followed:
            self._followed[name] = read
            self._track(name, _FollowedArray(read, lambda array: self.put({name: array})))

    def take(self, name: str) -> np.ndarray | None:
        """Returns what a file brought along under a name, once; None if nothing did."""
        return self._waiting.pop(name, None)

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes what a file brings along."""
        for name, array in arrays.items():
            if name in self._variables:
                self._variables[name].assign(tf.cast(array, self._variables[name].dtype))
            else:
                self._waiting[name] = array

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields what to write into a file."""
        yield from self._waiting.items()
        yield from ((name, variable.numpy()) for name, variable in self._variables.items())
        followed = ((name, read()) for name, read in self._followed.items())
        yield from ((name, array) for name, array in followed if array is not None)


class _FollowedArray(tf.train.experimental.PythonState):
    """An array that no variable holds, in checkpoints of TensorFlow.

    Args:
        read: Returns the array, or None.
        put: Takes the array of a checkpoint.
    """

    def __init__(self, read: Callable[[], np.ndarray | None], put: Callable[[np.ndarray], None]):
        self._read, self._put = read, put

    def serialize(self) -> bytes:
        array, file = self._read(), io.BytesIO()
        if array is not None:
            np.save(file, array, allow_pickle=False)
        return file.getvalue()

    def deserialize(self, string_value: bytes) -> None:
        if string_value:
            self._put(np.load(io.BytesIO(string_value), allow_pickle=False))


_PREFIX = "aside"  # of the entries of a file, "aside:<path>:<name>"


def entry(path: str, name: str) -> str:
    """Returns the key of what is remembered of a weight in the file of its wrapper."""
    return f"{_PREFIX}:{path.replace('/', '_')}:{name}"


def entries(keys: Iterable[str], path: str) -> dict[str, str]:
    """Returns which keys of a file are of a weight: what is remembered, to its key."""
    start = entry(path, "")
    return {key.removeprefix(start): key for key in keys if key.startswith(start)}


def is_entry(key: str) -> bool:
    """Returns whether a key of a file is of what is remembered."""
    return key.startswith(f"{_PREFIX}:")
