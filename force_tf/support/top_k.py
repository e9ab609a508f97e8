"""Exactly the k largest of many numbers, by index, without a sort.

Among equal numbers the lower index wins. Numbers may be infinite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from force_tf.support.blocks import of_size, over_blocks

# Scores below this size are partitioned whole: a bracket would not pay.
_SMALL = 1 << 17
_SAMPLES = 1 << 15
# Where at most one of so many scores is eligible, those are copied; where more are, all are compared in place.
_FEW = 32


def top_k(scores: np.ndarray, k: int, eligible: np.ndarray | None = None) -> np.ndarray:
    """Marks the k largest scores; among equal scores the lower index wins.

    Args:
        scores: One-dimensional array of floats without NaN.
        k: How many to mark, at most as many as there are eligible scores.
        eligible: Booleans that mark which scores count; None for all.

    Returns:
        A boolean array with exactly k entries set, all of them eligible.
    """
    available = scores.size if eligible is None else int(np.count_nonzero(eligible))
    if not 0 <= k <= available:
        raise ValueError(f"Expected 0 <= k <= {available}, the number of eligible scores. Received: k={k}")
    if k == 0:
        return np.zeros(scores.size, bool)
    if k == available:
        return np.ones(scores.size, bool) if eligible is None else eligible.copy()
    if eligible is not None and available <= scores.size // _FEW:
        places = np.flatnonzero(eligible)
        keep = np.zeros(scores.size, bool)
        keep[places] = top_k(scores.take(places), k)
        return keep
    threshold, keep, surplus = _threshold_and_marks(scores, k, eligible)
    for block in reversed(of_size(scores.size)):
        if not surplus:
            break
        ties = np.flatnonzero(keep[block] & (scores[block] == threshold))[-surplus:]
        keep[block][ties] = False
        surplus -= ties.size
    return keep


def _threshold_and_marks(
    scores: np.ndarray, k: int, eligible: np.ndarray | None
) -> tuple[np.floating, np.ndarray, int]:
    """Returns the k-th largest eligible score, marks of those that are not below it, and how many more than k."""
    bracket = None if scores.size < _SMALL else _Bracket(scores, k, eligible)
    if bracket is not None and bracket.holds_it:
        return bracket.threshold, *bracket.marks()
    threshold = _kth_largest(scores, k, eligible, bracket)
    keep = _among(scores >= threshold, eligible)
    return threshold, keep, int(np.count_nonzero(keep)) - k


class _Bracket:
    """Two bounds of the k-th largest of the eligible scores by a sample, and what lies above and between them.

    The few scores between are copied and partitioned. Besides speed that avoids the worst case of `np.partition`, which
    takes ten times as long when many scores are equal, as after a cut many are.
    """

    def __init__(self, scores: np.ndarray, k: int, eligible: np.ndarray | None):
        available = scores.size if eligible is None else int(np.count_nonzero(eligible))
        drawn = np.random.default_rng(0).integers(scores.size, size=_SAMPLES)
        sample = _taken(scores[drawn], None if eligible is None else eligible[drawn])
        sample.sort()
        below = 1.0 - k / available
        position = sample.size * below
        margin = 6.0 * np.sqrt(position * (1.0 - below)) + 6.0  # six standard deviations of the sample's quantile
        low = sample[max(int(position - margin), 0)] if position > margin else scores.dtype.type(-np.inf)
        high = sample[int(position + margin)] if position + margin < sample.size else scores.dtype.type(np.inf)
        # The ends of the bracket are kept out of it: they may be values that millions of scores share.
        self.low, self.high, self._k = low, high, k
        self._from_high = np.empty(scores.size, bool)

        def divide(block):
            part, marks = scores[block], self._from_high[block]
            np.greater_equal(part, high, out=marks)
            within = part > low
            np.greater(within, marks, out=within)
            if eligible is not None:
                marks &= eligible[block]
                within &= eligible[block]
            places = np.flatnonzero(within)
            return np.count_nonzero(marks), places + block.start, part.take(places)

        counts, places, inside = zip(*over_blocks(divide, scores.size))
        self.above = int(sum(counts))
        self._places, self.inside = np.concatenate(places), np.concatenate(inside)

    @property
    def holds_it(self) -> bool:
        return self.above < self._k <= self.above + self.inside.size

    @functools.cached_property
    def threshold(self) -> np.floating:
        """The k-th largest score, if the bracket holds it."""
        position = self.above + self.inside.size - self._k
        return np.partition(self.inside, position)[position]

    def marks(self) -> tuple[np.ndarray, int]:
        """Returns marks of the scores that are not below the threshold, and how many more than k they are."""
        places = self._places[self.inside >= self.threshold]
        self._from_high[places] = True
        return self._from_high, self.above + places.size - self._k


def _kth_largest(
    scores: np.ndarray, k: int, eligible: np.ndarray | None = None, bracket: _Bracket | None = None
) -> np.floating:
    """The k-th largest of the eligible scores.

    Args:
        scores: As in `top_k`.
        k: As in `top_k`, at least 1.
        eligible: As in `top_k`.
        bracket: That of these arguments, if it is there already.
    """
    if scores.size < _SMALL:
        available = scores.size if eligible is None else int(np.count_nonzero(eligible))
        return np.partition(_taken(scores, eligible), available - k)[available - k]
    bracket = _Bracket(scores, k, eligible) if bracket is None else bracket
    if bracket.holds_it:
        return bracket.threshold
    low, high = bracket.low, bracket.high
    if k <= bracket.above:
        larger = _where(scores, eligible, lambda part: part > high)
        return high if k > larger.size else _kth_largest(larger, k)  # the sample missed, however unlikely
    from_low = _count(scores, eligible, lambda part: part >= low)
    if k <= from_low:
        return low
    return _kth_largest(_where(scores, eligible, lambda part: part < low), k - from_low)


def _where(scores: np.ndarray, eligible: np.ndarray | None, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The eligible scores for which a condition holds."""
    allowed = _of_block(eligible)
    return np.concatenate(
        over_blocks(lambda block: _taken(scores[block], _among(holds(scores[block]), allowed(block))), scores.size)
    )


def _count(scores: np.ndarray, eligible: np.ndarray | None, holds: Callable[[np.ndarray], np.ndarray]) -> int:
    """How many of the eligible scores a condition holds for."""
    allowed = _of_block(eligible)
    counts = over_blocks(lambda block: np.count_nonzero(_among(holds(scores[block]), allowed(block))), scores.size)
    return int(sum(counts))


def _of_block(marks: np.ndarray | None) -> Callable[[slice], np.ndarray | None]:
    return lambda block: None if marks is None else marks[block]


def _among(marks: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
    """Takes from a new array of marks, in place, those that are not eligible."""
    return marks if eligible is None else np.logical_and(marks, eligible, out=marks)


def _taken(scores: np.ndarray, marks: np.ndarray | None) -> np.ndarray:
    """The marked scores. By their indices, since indexing with booleans takes up to six times as long."""
    return scores if marks is None else scores.take(np.flatnonzero(marks))
