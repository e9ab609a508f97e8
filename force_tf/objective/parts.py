"""What a part of a batch counts in the whole: the rows of one replica, or of one micro-batch after another."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from force_tf.support.arrays import row_count, take_rows

_thread = threading.local()


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of a batch that is computed. What is made of it is averaged over all parts, by their shares.

    Attributes:
        share: The share that it has of the rows, a scalar tensor of float64; 0 for a part that has none.
        total: Returns the sum of a number over all parts; None where others are computed at another time.
    """

    share: tf.Tensor
    total: Callable[[tf.Tensor], tf.Tensor] | None


@contextlib.contextmanager
def computing(part: Part | None) -> Iterator[None]:
    """Tells the functions below which part this thread computes in a block. Each replica has a thread of its own."""
    outer = _present()
    _thread.part = part
    try:
        yield
    finally:
        _thread.part = outer


def mean_of_parts(value: tf.Tensor, count: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns the mean of a part as one whose average, over the parts of a batch, is the mean of all.

    Args:
        value: The mean of the part that the calling thread computes, or of a whole batch.
        count: What the mean divides by: a function, called only where there are parts.

    Raises:
        ValueError: If the sum of what all parts divide by is not known.
    """
    part = _present()
    if part is None:
        return value
    check_adds_up("a loss that divides by sample weights or masks")
    counted = tf.cast(count(), tf.float64) * tf.cast(part.share > 0, tf.float64)
    return value * tf.cast(tf.math.divide_no_nan(counted, part.total(counted)) * _inverse(part.share), value.dtype)


def sum_of_parts(value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a part as one whose average, over the parts of a batch, is the sum of all."""
    part = _present()
    return value if part is None else value * tf.cast(_inverse(part.share), value.dtype)


def check_adds_up(what: str) -> None:
    """Raises where parts are computed one after another, so that what depends on the whole batch cannot be known.

    Args:
        what: What need not add up over the parts.

    Raises:
        ValueError: If there are such parts.
    """
    part = _present()
    if part is not None and part.total is None:
        raise ValueError(
            f"Expected micro_batch_size=None, since {what} need not add up over the parts of a batch; smaller batches "
            "and `batches=` take as little memory. Received: a micro_batch_size"
        )


def micro_batches(arguments: Any, size: int | None) -> Iterator[tuple[float, Any]]:
    """Yields consecutive parts of a batch, each with its share of the rows.

    Args:
        arguments: Nested tensors with as many rows as each other.
        size: The rows of a part; None for the whole as one.
    """
    leaves = tf.nest.flatten(arguments)
    rows = 0 if size is None else max((row_count(leaf) for leaf in leaves if has_rows(leaf)), default=0)
    if size is None or rows <= size:
        yield 1.0, arguments
        return
    for begin in range(0, rows, size):
        part = range(begin, min(begin + size, rows))
        yield (
            len(part) / rows,
            tf.nest.map_structure(lambda leaf, part=part: take_rows(leaf, part) if has_rows(leaf) else leaf, arguments),
        )


def has_rows(leaf: Any) -> bool:
    """Returns whether something is a tensor with rows, rather than a scalar or None."""
    return leaf is not None and bool(leaf.shape.rank)


def _present() -> Part | None:
    return getattr(_thread, "part", None)


def _inverse(share: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(tf.ones([], tf.float64), share)
