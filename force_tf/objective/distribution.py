"""How the replicas of a `tf.distribute` strategy share the work on a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import array_variables, fixed_batch_size, whole_variable
from force_tf.objective.parts import Part, computing, has_rows
from force_tf.support.arrays import as_tensor, row_count, take_rows

_SHARING = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.TPUStrategy,
)
# What keeps one copy of the variables for all.
_CENTRAL = (
    tf.distribute.ParameterServerStrategy,
    tf.distribute.experimental.ParameterServerStrategy,
    tf.distribute.experimental.CentralStorageStrategy,
)
# What TensorFlow raises of collective operations where another process has ended or does not answer.
_LOST = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError, tf.errors.UnavailableError)


class LostWorkerError(RuntimeError):
    """Another process of a MultiWorkerMirroredStrategy has ended or does not answer."""


class Distribution:
    """Shares batches among the replicas of a strategy and adds up what they compute.

    Each replica gets consecutive rows of the global batch. What it computes of them counts by the number of its rows,
    so that the result is that of one device on the whole batch.

    Args:
        strategy: A strategy that keeps a copy of the variables on each replica.

    Raises:
        ValueError: If the strategy is of another kind.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        if not isinstance(strategy, _SHARING):
            raise ValueError(_unknown(strategy))
        self.strategy = strategy
        self._local_ids: list[int] = []  # of this process's replicas, among all
        strategy.experimental_distribute_values_from_function(
            lambda context: self._local_ids.append(context.replica_id_in_sync_group) or 0
        )

    @property
    def workers(self) -> int:
        """The number of processes."""
        return self.strategy.num_replicas_in_sync // len(self._local_ids)

    @property
    def is_chief(self) -> bool:
        """Whether this is the process of the first replica."""
        return self._local_ids[0] == 0

    def of_all_workers(self, numbers: Sequence[int]) -> np.ndarray:
        """Returns the numbers that each process gives, as many, in an array of shape (processes, numbers)."""
        own = np.zeros((self.workers, len(numbers)), np.int64)
        own[self._worker] = numbers
        return self._sum_of_workers(tf.constant(own)).numpy()

    def from_chief(self, content: bytes) -> bytes:
        """Returns the content that the first process gives."""
        length = int(self.of_all_workers([len(content)])[0, 0])
        if not length:  # TensorFlow's sums of nothing over processes crash them
            return b""
        numbers = np.frombuffer(content, np.uint8) if self.is_chief else np.zeros(length, np.uint8)
        return self.of_all_workers(numbers)[0].astype(np.uint8).tobytes()

    @contextlib.contextmanager
    def naming_lost_workers(self) -> Iterator[None]:
        """Says what to do where another process is gone, instead of what TensorFlow says.

        Raises:
            LostWorkerError: In the place of TensorFlow's error.
        """
        try:
            yield
        except _LOST as error:
            if self.workers == 1:
                raise
            reason = next((line for line in str(error).splitlines() if "ops is aborted" in line), str(error))
            raise LostWorkerError(
                f"Expected all {self.workers} workers to go on to the end: one has failed or was killed, so that all "
                "have to start again, and with `checkpoint=` the search then goes on where it was. "
                f"Received: {type(error).__name__}: {' '.join(reason.split())[:200]}"
            ) from error

    def averaged(
        self, function: Callable[..., Sequence[tf.Tensor]], *, is_whole: bool
    ) -> Callable[..., list[tf.Tensor]]:
        """Returns a function of the parts of a batch that adds up what another one makes of each part.

        Args:
            function: Called on each replica with the share that its part has of the batch, a scalar to multiply the
                part's value by, the part's arguments and constants. Returns tensors.
            is_whole: Whether the parts are the whole batch, rather than one of its micro-batches.

        Returns:
            A function to be traced, of the share that the parts have together, of rows and arguments, as `parts`
            returns them, and of constants.
        """

        def on_replica(share, rows, arguments, constants):
            rows = tf.cast(rows, tf.float64)
            part = Part(share * rows / _sum(rows), _sum if is_whole else None)
            with computing(part):
                results = function(part.share, arguments, *constants)
            return _sum(list(results))

        def on_all(share, rows, arguments, *constants):
            sums = self.strategy.run(on_replica, args=(share, rows, arguments, constants))
            return [self.strategy.experimental_local_results(each)[0] for each in sums]

        return on_all

    def on_each(self, function: Callable[..., Sequence[Any]], *, sums: bool) -> Callable[..., list[Any]]:
        """Returns a function, to be traced, of what each replica holds, which does on each what another one does.

        Args:
            function: Takes tensors, or structures of them. Returns tensors.
            sums: Whether to return their sums over all replicas, rather than what each of them has.
        """

        def on_replica(*arguments):
            results = list(function(*arguments))
            return _sum(results) if sums else results

        def on_all(*arguments):
            results = self.strategy.run(on_replica, args=arguments)
            return [self.strategy.experimental_local_results(each)[0] for each in results] if sums else results

        return on_all

    def parts(self, arguments: Any) -> tuple[Any, Any]:
        """Returns the numbers of rows and the parts of a global batch, for each replica of this process.

        Args:
            arguments: Nested tensors with as many rows as each other, or what `distributed` returned. A replica that
                has no rows gets one that does not count.
        """
        leaves = tf.nest.flatten(arguments)
        local = list(zip(*map(self._local_values, leaves)))
        rows = [max((row_count(leaf) for leaf in part if has_rows(leaf)), default=1) for part in local]
        padded = [[_row_at_least(leaf) for leaf in part] for part in local]
        values = [leaf if leaf is None else self._joined(each) for leaf, each in zip(leaves, zip(*padded))]
        return self._joined([tf.constant(count, tf.int64) for count in rows]), tf.nest.pack_sequence_as(
            arguments, values
        )

    def part_specs(self, signature: Any) -> tuple[Any, Any]:
        """Returns the type specs of what `parts` returns, given those of its arguments."""

        def spec(leaf):
            return None if leaf is None else keras_internals.per_replica_spec(leaf, len(self._local_ids))

        return spec(tf.TensorSpec([], tf.int64)), tf.nest.map_structure(spec, signature)

    def local_parts(self, element: Any) -> list[Any]:
        """Returns the parts of this process's replicas of what an iterator over a distributed dataset returned."""
        leaves = map(self.strategy.experimental_local_results, tf.nest.flatten(element))
        return [tf.nest.pack_sequence_as(element, part) for part in zip(*leaves)]

    def distributed(self, parts: Sequence[Any]) -> Any:
        """Returns parts of a batch, one for each of this process's replicas, as one structure of distributed values."""
        leaves = zip(*map(tf.nest.flatten, parts))
        joined = [None if each[0] is None else self._joined(each) for each in leaves]
        return tf.nest.pack_sequence_as(parts[0], joined)

    def whole(self, arguments: Any) -> Any:
        """Returns a batch as one, on every process, of which each replica may hold a part.

        Raises:
            ValueError: If several processes hold parts of strings, or of sparse or ragged tensors.
        """
        return tf.nest.map_structure(self._whole, arguments)

    def _whole(self, leaf: Any) -> Any:
        if not isinstance(leaf, tf.distribute.DistributedValues):
            return leaf
        parts = list(self.strategy.experimental_local_results(leaf))
        if self.workers == 1:
            is_sparse = isinstance(parts[0], tf.SparseTensor)
            return tf.sparse.concat(axis=0, sp_inputs=parts) if is_sparse else tf.concat(parts, axis=0)
        dtype = parts[0].dtype
        if not isinstance(parts[0], tf.Tensor) or dtype == tf.string:
            raise ValueError(
                "Expected data that every worker draws as a whole, such as arrays or a list of batches, since strings, "
                "sparse and ragged tensors cannot be put together from several workers. "
                f"Received: a distributed dataset of {dtype.name}, in a {type(parts[0]).__name__}"
            )
        own = tf.concat(parts, axis=0)
        counts = self.of_all_workers([own.shape[0]])[:, 0]
        before, after = counts[: self._worker].sum(), counts[self._worker + 1 :].sum()
        wide = tf.float64 if dtype.is_floating else tf.int64  # which TensorFlow's collective operations know
        padded = tf.pad(tf.cast(own, wide), [[before, after], *[[0, 0]] * (own.shape.rank - 1)])
        return tf.cast(self._sum_of_workers(padded), dtype)  # not by `gather`, which is traced at every call

    @property
    def _worker(self) -> int:
        """The number of this process."""
        return self._local_ids[0] // len(self._local_ids)

    def _sum_of_workers(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the sum of what each process gives."""
        values = self._joined([value, *[tf.zeros_like(value)] * (len(self._local_ids) - 1)])
        with self.naming_lost_workers():
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    def _local_values(self, leaf: Any) -> Sequence[Any]:
        if isinstance(leaf, tf.distribute.DistributedValues):
            return self.strategy.experimental_local_results(leaf)
        if not has_rows(leaf):
            return [leaf] * len(self._local_ids)
        count, replicas = row_count(leaf), self.strategy.num_replicas_in_sync
        ends = [(count // replicas) * i + min(i, count % replicas) for i in range(replicas + 1)]
        return [as_tensor(take_rows(leaf, range(ends[i], ends[i + 1]))) for i in self._local_ids]

    def _joined(self, values: Sequence[Any]) -> Any:
        by_id = dict(zip(self._local_ids, values))
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: by_id[context.replica_id_in_sync_group]
        )


def distribution_of(variable: Any) -> Distribution | None:
    """Returns how work is shared among the replicas that hold copies of a variable; None if there is but one."""
    whole = whole_variable(variable)
    if not isinstance(whole, tf.distribute.DistributedValues) or whole.distribute_strategy.num_replicas_in_sync < 2:
        return None
    return Distribution(whole.distribute_strategy)


def distribution_of_model(model: Any) -> Distribution | None:
    """Returns how work on a model is shared, by the strategy in whose scope it was made; None for one replica.

    Raises:
        ValueError: If the strategy keeps no copies of the variables, or the model takes batches of but one size.
    """
    if isinstance(model.distribute_strategy, _CENTRAL):
        raise ValueError(_unknown(model.distribute_strategy))
    variables = array_variables(model)
    distribution = distribution_of(variables[0]) if variables else None
    if distribution is not None and fixed_batch_size(model) is not None:
        raise ValueError(
            "Expected a model that takes batches of any size, since each replica gets a part of a batch. "
            f"Received: the model {model.name!r}, which fixes the size of its batches, and "
            f"{distribution.strategy.num_replicas_in_sync} replicas"
        )
    return distribution


def writes_files(model: Any) -> bool:
    """Whether this process is the one that writes files: of a MultiWorkerMirroredStrategy the first one."""
    strategy = model.distribute_strategy
    return not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or Distribution(strategy).is_chief


def _unknown(strategy: tf.distribute.Strategy) -> str:
    return (
        "Expected a model that was made in the scope of a MirroredStrategy, a MultiWorkerMirroredStrategy or a "
        f"TPUStrategy, which keep a copy of its weights on each replica. Received: {type(strategy).__name__}"
    )


def first_part(structure: Any) -> Any:
    """Returns what the first replica of this process has of nested values, which need not be distributed."""

    def first(leaf):
        distributed = isinstance(leaf, tf.distribute.DistributedValues)
        return tf.distribute.get_strategy().experimental_local_results(leaf)[0] if distributed else leaf

    return tf.nest.map_structure(first, structure)


def _sum(values: Any) -> Any:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def _row_at_least(leaf: Any) -> Any:
    """Returns a tensor, or one row that does not count in the place of none."""
    if not has_rows(leaf) or row_count(leaf):
        return leaf
    shape = [1, *leaf.shape[1:]]
    if isinstance(leaf, tf.SparseTensor):
        return tf.SparseTensor(leaf.indices, leaf.values, shape)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.concat([leaf, tf.RaggedTensor.from_row_lengths(leaf.values, [0])], axis=0)
    return tf.fill(shape, "") if leaf.dtype == tf.string else tf.zeros(shape, leaf.dtype)
