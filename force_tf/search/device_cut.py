"""The cut where the weights live: of all scores only a few counts and sums come to the host."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.granularity import Plan, device_selection, split
from force_tf.granularity.selection import quotas
from force_tf.search.cut import Cut, CutFacts
from force_tf.search.flat_scores import check_no_nan, scores_of_weights
from force_tf.search.zero_scores import ZeroScores

# The rows of what a cut counts in each tensor.
_NAN, _NONZERO, _SCORED, _ELIGIBLE, _KEPT, _REVIVED, _INFINITE, _INFINITE_KEPT = range(8)


class DeviceCut(Cut):
    """The cut of single weights by TensorFlow, on the device on which they live.

    Args:
        plan: What the search keeps.
        zeros: Is shown the scores where zeros may decide.
        invert: Whether to keep the lowest scores instead.
        dtype: The float type in which scores are compared.
        device: The name of the device, as TensorFlow has it.
    """

    def __init__(self, plan: Plan, zeros: ZeroScores, invert: bool, dtype: type, device: str):
        super().__init__(plan, zeros, invert, dtype)
        self._device = device
        self._sizes = np.array([weight.size for weight in plan.weights], np.int64)
        with tf.device(device):
            self._masks = [tf.fill(weight.shape, True) for weight in plan.weights]
        self._kept = self._sizes
        # Without XLA a pass would write what it compares; on a GPU, integers would even go to the host and back.
        traced = tf.function(self._cut, autograph=False, jit_compile=compiles_on(device) or None)
        marks = [tf.TensorSpec(weight.shape, tf.bool) for weight in plan.weights]
        counts, rest = tf.TensorSpec(self._sizes.shape, tf.int64), tf.TensorSpec([], tf.int64)
        with tf.device(device):
            scores = [tf.TensorSpec(weight.shape, dtype) for weight in plan.weights]
            self._traced = traced.get_concrete_function(scores, marks, counts, rest)

    def __call__(self, step: int, scores: Iterable[Any]) -> CutFacts:
        plan, k = self._plan, self._plan.counts[step - 1]
        available = self._sizes if plan.revive else self._kept
        counts = quotas(self._sizes, k, available, scope=plan.scope, shares=plan.shares, min_per_layer=plan.floors)
        with tf.device(self._device):
            scores = [tf.cast(score, self._dtype) for score in scores_of_weights(scores, plan.weights)]
            rest = tf.constant(k - int(counts.sum()), tf.int64)
            masks, numbers, sums = self._traced(scores, self._masks, tf.constant(counts, tf.int64), rest)
            del scores
        numbers, sums = numbers.numpy(), sums.numpy()
        check_no_nan(numbers[_NAN], plan.weights)
        self._masks, self._kept = masks, numbers[_KEPT]
        if step == 1:
            self._zeros.look_at_dense(numbers[_NONZERO] > 0)
        total = numbers.sum(axis=1)
        if self._zeros_tell(step):
            self._zeros.look_at_last_cut(int(total[_KEPT]), int(total[_ELIGIBLE]), int(total[_SCORED]))
        part, whole = total[[_INFINITE_KEPT, _INFINITE]] if total[_INFINITE] else sums
        return CutFacts(int(total[_KEPT]), float(part / whole) if whole else 0.0, int(total[_REVIVED]))

    def masks(self) -> list[tf.Tensor]:
        return self._masks

    def marks(self) -> np.ndarray:
        return np.concatenate([np.ravel(mask) for mask in self._masks])

    def restore(self, marks: np.ndarray) -> None:
        parts = split(marks, self._plan.weights)
        with tf.device(self._device):
            self._masks = [tf.constant(part) for part in parts]
        self._kept = np.array([np.count_nonzero(part) for part in parts], np.int64)

    def used(self) -> np.ndarray:
        return self.marks()

    def _cut(self, scores, before, counts, rest):
        """Returns the masks, the counts in each tensor, and the sums of absolute scores, of kept ones and of all."""
        plan = self._plan
        eligible = None if plan.revive else before
        keys = [-score for score in scores] if self._invert else scores
        has_quotas, has_rest = plan.scope != "global" or any(plan.floors), plan.scope == "global"
        keep = device_selection.select(keys, counts if has_quotas else None, rest if has_rest else None, eligible)
        nonzero = [tf.not_equal(device_selection.ordered_integers(score), 0) for score in scores]
        infinite = [tf.math.is_inf(score) for score in scores]
        rows = {
            _NAN: [tf.math.is_nan(score) for score in scores],
            _NONZERO: nonzero,
            _SCORED: nonzero if eligible is None else [a & b for a, b in zip(nonzero, eligible)],
            _ELIGIBLE: eligible or [tf.fill(score.shape, True) for score in scores],
            _KEPT: keep,
            _REVIVED: [now & ~old for now, old in zip(keep, before)],
            _INFINITE: infinite,
            _INFINITE_KEPT: [a & b for a, b in zip(infinite, keep)],
        }
        numbers = tf.stack([_counts(rows[row]) for row in sorted(rows)])
        return keep, numbers, _sums(scores, keep)


def _counts(marks: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.cast(tf.stack([tf.reduce_sum(tf.cast(each, tf.int32)) for each in marks]), tf.int64)


def _sums(scores: Sequence[tf.Tensor], keep: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sums of absolute scores, of kept ones and of all, in units of the largest, so that they do not overflow."""
    magnitudes = [tf.abs(score) for score in scores]
    largest = tf.reduce_max(tf.stack([tf.reduce_max(each) if each.shape.num_elements() else 0 for each in magnitudes]))
    tiny = np.finfo(largest.dtype.as_numpy_dtype).tiny
    unit = tf.where(tf.math.is_finite(largest) & (largest >= tiny), largest, 1)
    parts = [each / unit for each in magnitudes]
    kept = tf.add_n([tf.reduce_sum(tf.where(mask, part, 0)) for mask, part in zip(keep, parts)])
    return tf.stack([kept, tf.add_n([tf.reduce_sum(part) for part in parts])])


@functools.cache
def compiles_on(device: str) -> bool:
    """Whether a device is an accelerator that XLA compiles for."""
    if tf.DeviceSpec.from_string(device).device_type in (None, "CPU"):
        return False
    try:
        with tf.device(device):
            return bool(tf.function(lambda x: x > 0, jit_compile=True)(tf.constant(1.0)))
    except (tf.errors.OpError, ValueError):
        return False
