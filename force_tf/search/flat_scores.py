"""The scores of all weights in one flat array."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.granularity import split
from force_tf.models.weights import PrunableWeight
from force_tf.support.blocks import over_blocks

# Where at most one of so many scores is kept, those are taken; where more are, the others are multiplied by zero.
_FEW = 32


def score_dtype(weights: Sequence[PrunableWeight]) -> type:
    """Returns the float type in which the scores of some weights are held: the widest of the weights' own."""
    return np.float64 if any(tf.as_dtype(weight.variable.dtype) == tf.float64 for weight in weights) else np.float32


def scores_of_weights(scores: Any, weights: Sequence[PrunableWeight]) -> Iterator[Any]:
    """Yields what a criterion returned, checked: one tensor for each weight, of its shape.

    Raises:
        TypeError: If it is no iterable.
        ValueError: If there are more or fewer, or one is of another shape.
    """
    if not isinstance(scores, Iterable):
        raise TypeError(f"Expected the criterion to return a tensor of scores for each weight. Received: {scores!r}")
    for weight, score in itertools.zip_longest(weights, scores):
        if weight is None or score is None:
            raise ValueError(
                f"Expected the criterion to return a tensor of scores for each of the {len(weights)} weights. "
                f"Received: {'more' if weight is None else 'fewer'}"
            )
        if tuple(np.shape(score)) != weight.shape:
            raise ValueError(
                f"Expected scores of shape {weight.shape} for {weight.path!r}. Received: {np.shape(score)}"
            )
        yield score
        del score  # before the next one is made


def fill(flat: np.ndarray, scores: Any, weights: Sequence[PrunableWeight]) -> float:
    """Fills one flat array with all scores, tensor by tensor, so that only one copy of them is held.

    Returns:
        The sum of the absolute scores; infinite if it is too large for their dtype.

    Raises:
        TypeError: As `scores_of_weights`.
        ValueError: As `scores_of_weights`, or if scores are NaN.
    """
    end, total = 0, 0.0
    for weight, score in zip(weights, scores_of_weights(scores, weights), strict=True):
        begin, end = end, end + weight.size
        total += _copy(np.ravel(score), flat[begin:end])
        del score  # before the next one is made
    if np.isnan(total):  # as it is if one score is
        check_no_nan([np.count_nonzero(np.isnan(part)) for part in split(flat, weights)], weights)
    return total


def _copy(scores: np.ndarray, to: np.ndarray) -> float:
    """Copies scores, and returns the sum of their absolute values, taken while they are in the processor's cache."""

    def copy(block):
        to[block] = scores[block]
        return _magnitude(to[block])

    return sum(over_blocks(copy, scores.size))


def check_no_nan(counts: Sequence[int], weights: Sequence[PrunableWeight]) -> None:
    """Raises if there are NaN among the scores.

    Args:
        counts: How many there are for each weight.
        weights: The prunable weights.

    Raises:
        ValueError: If there are; it names the weight.
    """
    for weight, count in zip(weights, counts):
        if count:
            raise ValueError(f"Expected scores without NaN. Received: {count} NaN for {weight.path!r}")


def saliency_kept(scores: np.ndarray, keep: np.ndarray, total: float) -> float:
    """The part of the sum of all absolute scores that the kept ones have.

    Args:
        scores: All scores.
        keep: Marks of those that are kept.
        total: What `fill` returned for these scores.
    """
    kept = _kept_magnitude(scores, keep)
    if np.isinf(total) and scores.dtype != np.float64:  # the sum may be, and no score
        kept = _kept_magnitude(scores, keep, np.float64)
        total = sum(over_blocks(lambda block: _magnitude(scores[block], np.float64), scores.size))
    if np.isinf(total):
        infinite = np.isinf(scores)
        return float(infinite[keep].sum() / infinite.sum())
    return kept / total if total else 0.0


def _kept_magnitude(scores: np.ndarray, keep: np.ndarray, dtype: np.typing.DTypeLike = None) -> float:
    def kept(block):
        part, marks = scores[block], keep[block]
        if np.count_nonzero(marks) <= marks.size // _FEW:
            return _magnitude(part.take(np.flatnonzero(marks)), dtype)
        # Not `sum(where=marks)`, which is several times slower. An infinite score times zero is NaN: no matter, since
        # the total is infinite then.
        with np.errstate(invalid="ignore"):
            return _magnitude(np.multiply(part, marks), dtype)

    return sum(over_blocks(kept, scores.size))


def _magnitude(scores: np.ndarray, dtype: np.typing.DTypeLike = None) -> float:
    """The sum of absolute values, in a dtype; by default in their own."""
    with np.errstate(over="ignore"):
        return float(np.abs(scores).sum(dtype=dtype or scores.dtype))
