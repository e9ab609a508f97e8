"""Batches from every form of data that `fit` takes, endlessly: the data starts over when it runs out."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from force_tf.objective.distribution import Distribution
from force_tf.support import arrays


class Batch(NamedTuple):
    """Inputs, targets and sample weights of a batch: tensors, nested structures of them, or None for what it lacks."""

    x: Any
    y: Any = None
    sample_weight: Any = None


class Batches:
    """An endless stream of batches.

    Datasets, `PyDataset`s and other iterables keep their own order and batch size; arrays are shuffled once and cut.

    Args:
        data: A batched `tf.data.Dataset`, arrays `(x, y)` or `(x, y, sample_weight)`, a `PyDataset`, or an iterable of
            batches (a list, a generator, …). `x` and `y` may be nested structures, of all that `as_arrays` takes.
        batch_size: The batch size for arrays.
        seed: Shuffles arrays; None for another order every time.
        check: Called with every batch that is drawn, to refuse what does not fit.
        needs_targets: Whether batches must have targets. If not, `data` may be inputs alone, an array or a dict of
            arrays, and of datasets and other streams each element.
        float_dtype: The float type that NumPy's floats are cast to; None to leave them.
        distribution: How replicas share the batches; None for one replica. Where several processes do, a
            `tf.data.Dataset` is distributed as in `fit`, so that each process reads its own shard, and of other data
            each draws the same batches. Batches of a distributed dataset come as distributed values.

    Attributes:
        first: The first batch; of a distributed dataset a part of it.

    Raises:
        ValueError: If there is no data, arrays differ in length, or batches lack targets.
        TypeError: If `data` is of another form.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 128,
        seed: int | None = None,
        check: Callable[[Batch], None] | None = None,
        needs_targets: bool = True,
        float_dtype: str | None = None,
        distribution: Distribution | None = None,
    ):
        self._check = check
        if isinstance(data, tf.data.Dataset) and distribution is not None and distribution.workers > 1:
            data = distribution.strategy.experimental_distribute_dataset(data)
        self._distribution = distribution if isinstance(data, tf.distribute.DistributedDataset) else None
        if isinstance(data, tf.distribute.DistributedDataset) and distribution is None:
            raise ValueError(
                "Expected data that is not distributed, since the model has one replica: make it in the scope of the "
                f"strategy. Received: {_kind(data)}"
            )
        self._needs_targets, self._float_dtype = needs_targets, float_dtype
        if not needs_targets and _is_inputs(data):
            data = (data,)
        self._open, self._restarts = _opener(data, batch_size, seed, needs_targets)
        self._iterator = self._open()
        self._drawn = 0
        try:
            parts = self._parts(next(self._iterator))
        except StopIteration:
            raise ValueError(f"Expected at least one batch of data. Received: {_kind(data)}, which is empty") from None
        self.first = next((part for part in parts if not _has_no_rows(part)), parts[0])
        self._peeked: list[Batch] | None = parts

    @property
    def are_distributed(self) -> bool:
        """Whether each process reads parts of its own, rather than whole batches."""
        return self._distribution is not None

    def first_bytes(self) -> bytes:
        """Returns the content of the first batch."""
        leaves = [leaf for leaf in tf.nest.flatten(self.first, expand_composites=True) if leaf is not None]
        return b"".join(tf.io.serialize_tensor(leaf).numpy() for leaf in leaves)

    def __next__(self) -> Batch:
        parts = self._draw()
        if self._check is not None:
            for part in parts:
                self._check(part)
        return parts[0] if self._distribution is None else self._distribution.distributed(parts)

    def _draw(self) -> list[Batch]:
        self._drawn += 1
        if self._peeked is not None:
            parts, self._peeked = self._peeked, None
            return parts
        try:
            return self._parts(next(self._iterator))
        except StopIteration:
            pass
        if not self._restarts:
            raise ValueError(
                f"Expected data for {self._drawn} batches or more, or data that can start over (a tf.data.Dataset, "
                f"arrays, a list). Received: a generator that ran out after {self._drawn - 1}"
            )
        self._iterator = self._open()
        try:
            return self._parts(next(self._iterator))
        except StopIteration:
            raise ValueError(
                "Expected data that can start over. Received: data that was empty the second time"
            ) from None

    def _parts(self, element: Any) -> list[Batch]:
        """Returns a batch, or the parts that the replicas of this process have of it."""
        if self._distribution is None:
            return [self._batch(element)]
        return list(map(self._batch, self._distribution.local_parts(element)))

    def _batch(self, element: Any) -> Batch:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        if y is None and self._needs_targets:
            raise ValueError(
                "Expected batches (x, y) or (x, y, sample_weight): the loss needs targets. "
                f"Received: a batch without them, {_kind(element)}"
            )
        batch = Batch(*(self._tensors(arrays.as_arrays(part)) for part in (x, y, sample_weight)))
        if self._distribution is None and _has_no_rows(batch):
            raise ValueError("Expected at least one row in each batch. Received: a batch without rows")
        targets = tf.nest.flatten(batch.y) if self._needs_targets else []
        if any(leaf is not None and leaf.dtype == tf.string for leaf in targets):
            raise TypeError("Expected targets that are numbers. Received: strings")
        return batch

    def _tensors(self, structure: Any) -> Any:
        return tf.nest.map_structure(
            lambda leaf: None if leaf is None else arrays.as_tensor(leaf, self._float_dtype), structure
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def draw(self, count: int) -> Iterator[Batch]:
        """Yields the next `count` batches, each drawn when it is asked for."""
        return itertools.islice(self, count)

    def take(self, count: int) -> list[Batch]:
        """Returns the next `count` batches."""
        return list(self.draw(count))

    def save(self, folder: str, name: str) -> dict[str, Any]:
        """Returns how far the stream is, as JSON can hold it, for `restore`.

        The iterator of a `tf.data.Dataset`, with what lies in the buffers of `shuffle`, is written to `folder/name`
        where TensorFlow can do so: not if Python code makes the elements.

        Args:
            folder: A folder that exists.
            name: The name of a new folder in it.
        """
        saved = None
        if isinstance(self._iterator, tf.data.Iterator):
            with contextlib.suppress(tf.errors.OpError, NotImplementedError):
                tf.train.Checkpoint(iterator=self._iterator).write(os.path.join(folder, name, "iterator"))
                saved = name
        return {"drawn": self._drawn, "saved": saved}

    def restore(self, folder: str, place: Mapping[str, Any]) -> None:
        """Goes to where `save` was called, in a stream of the same data. What cannot be read is drawn again and left.

        Args:
            folder: The folder that `save` was given.
            place: What it returned.
        """
        if place["saved"] is None or not isinstance(self._iterator, tf.data.Iterator):
            for _ in range(place["drawn"]):
                self._draw()
            return
        path = os.path.join(folder, place["saved"], "iterator")
        tf.train.Checkpoint(iterator=self._iterator).read(path).assert_consumed()
        self._peeked, self._drawn = None, place["drawn"]

    def signature(self, fixed_batch: bool = False) -> Batch:
        """Returns the type specs of a batch, of unknown batch size unless `fixed_batch`, to trace functions with."""

        def spec(leaf):
            if leaf is None:
                return None
            exact = tf.type_spec_from_value(leaf)
            if fixed_batch or not leaf.shape.rank:
                return exact
            shape = [None, *leaf.shape[1:]]
            if isinstance(leaf, tf.SparseTensor):
                return tf.SparseTensorSpec(shape, leaf.dtype)
            if isinstance(leaf, tf.RaggedTensor):
                return tf.RaggedTensorSpec(shape, leaf.dtype, leaf.ragged_rank, exact.row_splits_dtype)
            return tf.TensorSpec(shape, leaf.dtype)

        return tf.nest.map_structure(spec, self.first)


def _has_no_rows(batch: Batch) -> bool:
    return any(leaf.shape.rank and leaf.shape[0] == 0 for leaf in tf.nest.flatten(batch.x))


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
    if _is_inputs(data) or (isinstance(data, (list, tuple)) and not _is_list_of_batches(data)):
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0] if isinstance(data, tuple) else data
        inputs = arrays.as_arrays(inputs)
        length = min((arrays.row_count(array) for array in tf.nest.flatten(inputs) if len(array.shape)), default=0)
        rows = np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))
        return tf.nest.map_structure(
            lambda array: arrays.as_dense(arrays.take_rows(array, rows) if len(array.shape) else array), inputs
        )
    batches, found = [], 0
    for element in _opener(data)[0]():
        inputs = arrays.as_arrays(keras.utils.unpack_x_y_sample_weight(element)[0])
        inputs = tf.nest.map_structure(arrays.as_dense, inputs)
        batches.append(inputs)
        found += len(tf.nest.flatten(inputs)[0])
        if found >= count:
            break
    if not batches:
        raise ValueError(f"Expected at least one batch of data. Received: {_kind(data)}, which is empty")
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts)[:count], *batches)


def _opener(
    data: Any, batch_size: int = 1, seed: int | None = None, needs_targets: bool = True
) -> tuple[Callable[[], Iterator], bool]:
    """Returns a function that starts the data, and whether it may be called again."""
    if isinstance(data, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        return lambda: iter(data), True
    if isinstance(data, keras.utils.PyDataset):
        return lambda: _py_dataset(data), True
    if isinstance(data, tuple):
        whole = _arrays(data, needs_targets)
        # One order for the whole search, so that starting over draws the same batches.
        order = np.random.default_rng(seed).permutation(_length(whole))
        return lambda: _slices(whole, order, batch_size), True
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)) and not _is_inputs(data):
        first = iter(data)
        if first is not data:
            return lambda: iter(data), True
        return lambda: first, False
    raise TypeError(
        "Expected data as a batched tf.data.Dataset, arrays (x, y) or (x, y, sample_weight), a PyDataset, or an "
        f"iterable of batches. Received: {_kind(data)}"
    )


def _is_list_of_batches(data) -> bool:
    """Whether a list holds batches as tuples. Otherwise it may be a list of rows, of inputs, or of batches."""
    return isinstance(data, list) and any(isinstance(part, tuple) for part in data)


def _is_inputs(data) -> bool:
    """Whether data are inputs alone, of one array or of several by name, rather than a stream of batches."""
    return isinstance(data, dict) or (arrays.is_array(data) and not _is_list_of_batches(data))


def _py_dataset(data) -> Iterator:
    count = data.num_batches
    return (data[i] for i in (itertools.count() if count is None else range(count)))


def _arrays(data: tuple, needs_targets: bool) -> Batch:
    if not (2 if needs_targets else 1) <= len(data) <= 3:
        raise ValueError(
            "Expected arrays (x, y) or (x, y, sample_weight); put batches into a list, not a tuple. "
            f"Received: a tuple of {len(data)}"
        )
    batch = Batch(*map(arrays.as_arrays, data))
    for part in tf.nest.flatten(batch):
        if part is not None and not len(part.shape):
            raise TypeError(f"Expected arrays (x, y) or (x, y, sample_weight). Received: {_kind(part)} among them")
    return batch


def _length(batch: Batch) -> int:
    lengths = {arrays.row_count(leaf) for leaf in tf.nest.flatten(batch) if leaf is not None}
    if len(lengths) != 1:
        raise ValueError(
            f"Expected x, y and sample_weight to have as many rows as each other. Received: {sorted(lengths)} rows"
        )
    return lengths.pop()


def _slices(whole: Batch, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        yield tf.nest.map_structure(
            lambda leaf, rows=rows: None if leaf is None else arrays.take_rows(leaf, rows), whole
        )


def _kind(value: Any) -> str:
    if isinstance(value, (np.ndarray, tf.Tensor)):
        return f"an array of shape {tuple(value.shape)}"
    return f"an object of type {type(value).__name__}"
