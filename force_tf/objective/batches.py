"""Batches from every form of data that `fit` takes, endlessly: the data starts over when it runs out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf


class Batch(NamedTuple):
    """Inputs, targets and sample weights (or None) of one batch: tensors, or nested structures of them."""

    x: Any
    y: Any
    sample_weight: Any = None


class Batches:
    """An endless stream of batches.

    Datasets, `PyDataset`s and other iterables keep their own order and batch size; arrays are shuffled once and cut.

    Args:
        data: A batched `tf.data.Dataset`, arrays `(x, y)` or `(x, y, sample_weight)`, a `PyDataset`, or an iterable of
            batches (a list, a generator, …). `x` and `y` may be nested structures.
        batch_size: The batch size for arrays.
        seed: Shuffles arrays; None for another order every time.
        check: Called with every batch that is drawn, to refuse what does not fit.

    Raises:
        ValueError: If there is no data, arrays differ in length, or batches have no targets.
        TypeError: If `data` is of another form.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 128,
        seed: int | None = None,
        check: Callable[[Batch], None] | None = None,
    ):
        self._check = check
        self._open, self._restarts = _opener(data, batch_size, seed)
        self._iterator = self._open()
        self._drawn = 0
        try:
            self.first = _batch(next(self._iterator))
        except StopIteration:
            raise ValueError(f"Expected at least one batch of data. Received: {_kind(data)}, which is empty") from None
        self._peeked: Batch | None = self.first

    def __next__(self) -> Batch:
        batch = self._draw()
        if self._check is not None:
            self._check(batch)
        return batch

    def _draw(self) -> Batch:
        self._drawn += 1
        if self._peeked is not None:
            batch, self._peeked = self._peeked, None
            return batch
        try:
            return _batch(next(self._iterator))
        except StopIteration:
            pass
        if not self._restarts:
            raise ValueError(
                f"Expected data for {self._drawn} batches or more, or data that can start over (a tf.data.Dataset, "
                f"arrays, a list). Received: a generator that ran out after {self._drawn - 1}"
            )
        self._iterator = self._open()
        try:
            return _batch(next(self._iterator))
        except StopIteration:
            raise ValueError(
                "Expected data that can start over. Received: data that was empty the second time"
            ) from None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def take(self, count: int) -> list[Batch]:
        """Returns the next `count` batches."""
        return [next(self) for _ in range(count)]

    def signature(self, fixed_batch: bool = False) -> Batch:
        """Returns the type specs of a batch, of unknown batch size unless `fixed_batch`, to trace functions with."""

        def spec(leaf):
            if leaf is None:
                return None
            leaf_spec = tf.type_spec_from_value(leaf)
            if fixed_batch or not isinstance(leaf_spec, tf.TensorSpec) or not leaf_spec.shape.rank:
                return leaf_spec
            return tf.TensorSpec([None, *leaf_spec.shape[1:]], leaf_spec.dtype)

        return tf.nest.map_structure(spec, self.first)


def first_inputs(data: Any, count: int) -> Any:
    """Returns the inputs of some samples, without targets.

    Args:
        data: What `Batches` takes, or inputs alone: an array, or a list or dict of arrays for several inputs.
        count: How many samples at most. Of arrays they are taken at even distances, so that an order in the data, such
            as by classes, does not matter; of others they are the first.

    Returns:
        Arrays of shape (samples, …), in the structure of the inputs.

    Raises:
        ValueError: If there is no data.
        TypeError: If `data` is of another form.
    """
    is_inputs = isinstance(data, (dict, np.ndarray, tf.Tensor)) or (
        isinstance(data, list) and not any(isinstance(part, tuple) for part in data)
    )
    if is_inputs or isinstance(data, tuple):
        inputs = data if is_inputs else keras.utils.unpack_x_y_sample_weight(data)[0]
        inputs = tf.nest.map_structure(np.asarray, inputs)
        length = min((len(array) for array in tf.nest.flatten(inputs) if array.ndim), default=0)
        rows = np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))
        return tf.nest.map_structure(lambda array: array[rows] if array.ndim else array, inputs)
    batches, found = [], 0
    for element in _opener(data, 1, None)[0]():
        inputs = tf.nest.map_structure(np.asarray, keras.utils.unpack_x_y_sample_weight(element)[0])
        batches.append(inputs)
        found += len(tf.nest.flatten(inputs)[0])
        if found >= count:
            break
    if not batches:
        raise ValueError(f"Expected at least one batch of data. Received: {_kind(data)}, which is empty")
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts)[:count], *batches)


def _opener(data, batch_size: int, seed: int | None) -> tuple[Callable[[], Iterator], bool]:
    """Returns a function that starts the data, and whether it may be called again."""
    if isinstance(data, tf.data.Dataset):
        return lambda: iter(data), True
    if isinstance(data, keras.utils.PyDataset):
        return lambda: _py_dataset(data), True
    if isinstance(data, tuple):
        arrays = _arrays(data)
        # One order for the whole search, so that starting over draws the same batches.
        order = np.random.default_rng(seed).permutation(_length(arrays))
        return lambda: _slices(arrays, order, batch_size), True
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict, np.ndarray, tf.Tensor)):
        first = iter(data)
        if first is not data:
            return lambda: iter(data), True
        return lambda: first, False
    raise TypeError(
        "Expected data as a batched tf.data.Dataset, arrays (x, y) or (x, y, sample_weight), a PyDataset, or an "
        f"iterable of batches. Received: {_kind(data)}"
    )


def _py_dataset(data) -> Iterator:
    count = data.num_batches
    return (data[i] for i in (itertools.count() if count is None else range(count)))


def _arrays(data: tuple) -> Batch:
    if not 2 <= len(data) <= 3:
        raise ValueError(
            "Expected arrays (x, y) or (x, y, sample_weight); put batches into a list, not a tuple. "
            f"Received: a tuple of {len(data)}"
        )
    return Batch(*(tf.nest.map_structure(_array, part) for part in data))


def _array(leaf):
    if isinstance(leaf, (tf.Tensor, np.ndarray, tf.SparseTensor, tf.RaggedTensor)):
        return leaf
    if leaf is None:
        return None
    array = np.asarray(leaf)
    if not array.ndim:
        raise TypeError(f"Expected arrays (x, y) or (x, y, sample_weight). Received: {_kind(leaf)} among them")
    return array


def _length(arrays: Batch) -> int:
    lengths = {int(leaf.shape[0]) for leaf in tf.nest.flatten(arrays) if leaf is not None}
    if len(lengths) != 1:
        raise ValueError(
            f"Expected x, y and sample_weight to have as many rows as each other. Received: {sorted(lengths)} rows"
        )
    return lengths.pop()


def _slices(arrays: Batch, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]

        def cut(leaf, rows=rows):
            if leaf is None:
                return None
            return leaf[rows] if isinstance(leaf, np.ndarray) else tf.gather(leaf, rows)

        yield tf.nest.map_structure(cut, arrays)


def _batch(element: Any) -> Batch:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    if y is None:
        raise ValueError(
            "Expected batches (x, y) or (x, y, sample_weight): the loss needs targets. "
            f"Received: a batch without them, {_kind(element)}"
        )
    batch = tf.nest.map_structure(_tensor, Batch(x, y, sample_weight))
    if any(leaf.shape.rank and leaf.shape[0] == 0 for leaf in tf.nest.flatten(batch.x)):
        raise ValueError("Expected at least one row in each batch. Received: a batch without rows")
    if any(leaf is not None and leaf.dtype == tf.string for leaf in tf.nest.flatten(batch.y)):
        raise TypeError("Expected targets that are numbers. Received: strings")
    return batch


def _tensor(leaf):
    if leaf is None or isinstance(leaf, (tf.Tensor, tf.SparseTensor, tf.RaggedTensor)):
        return leaf
    array = np.asarray(leaf)
    try:
        return tf.convert_to_tensor(array)
    except (TypeError, ValueError):
        raise TypeError(f"Expected batches of arrays that hold numbers. Received: dtype {array.dtype}") from None


def _kind(value: Any) -> str:
    if isinstance(value, (np.ndarray, tf.Tensor)):
        return f"an array of shape {tuple(value.shape)}"
    return f"an object of type {type(value).__name__}"
