"""The scores of all weights in one flat array."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from force_tf.granularity import split
from force_tf.models.weights import PrunableWeight


def score_dtype(weights: Sequence[PrunableWeight]) -> type:
    """Returns the float type in which the scores of some weights are held: the widest of the weights' own."""
    return np.float64 if any(tf.as_dtype(weight.variable.dtype) == tf.float64 for weight in weights) else np.float32


def fill(flat: np.ndarray, scores, weights: Sequence[PrunableWeight]) -> None:
    """Fills one flat array with all scores, tensor by tensor, so that only one copy of them is held."""
    if not isinstance(scores, Iterable):
        raise TypeError(f"Expected the criterion to return a tensor of scores for each weight. Received: {scores!r}")
    end = 0
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
        begin, end = end, end + weight.size
        flat[begin:end] = np.ravel(score)
    # A sum is NaN if a summand is, or if both infinities are there; summing is cheaper than looking at every score.
    with np.errstate(invalid="ignore", over="ignore"):
        suspicious = np.isnan(flat.sum())
    if suspicious:
        for weight, part in zip(weights, split(flat, weights)):
            if np.isnan(part).any():
                raise ValueError(
                    f"Expected scores without NaN. Received: {np.isnan(part).sum()} NaN for {weight.path!r}"
                )


def saliency_kept(scores: np.ndarray, keep: np.ndarray) -> float:
    """The part of the sum of all absolute scores that the kept ones have. Works in place: the scores are spent."""
    np.abs(scores, out=scores)
    dtype = scores.dtype
    with np.errstate(over="ignore"):
        total = scores.sum()
    if np.isinf(total) and dtype != np.float64:  # the sum may be, and no score
        dtype = np.float64
        total = scores.sum(dtype=dtype)
    if np.isinf(total):
        infinite = np.isinf(scores)
        return float(infinite[keep].sum() / infinite.sum())
    # Not `sum(where=keep)`, which is several times slower.
    return float(np.multiply(scores, keep, out=scores).sum(dtype=dtype) / total) if total else 0.0
