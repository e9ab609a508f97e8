"""The cut: exactly the k best of all scores, by index, over the whole network or layer by layer.

Among equal scores the lower index wins, so that exactly k weights are kept whatever the ties. Scores may be infinite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from force_tf.support.blocks import of_size, over_blocks

# Scores below this size are partitioned whole: a bracket would not pay.
_SMALL = 1 << 17
_SAMPLES = 1 << 15
# Where at most one of so many scores is eligible, those are copied; where more are, all are compared in place.
_FEW = 4


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


def select(
    scores: np.ndarray,
    sizes: Sequence[int],
    k: int,
    *,
    scope: str = "global",
    shares: Sequence[float] | None = None,
    min_per_layer: int | Sequence[int] = 0,
    eligible: np.ndarray | None = None,
    kept: np.ndarray | None = None,
) -> np.ndarray:
    """Marks exactly k weights to keep.

    Args:
        scores: All scores, flat, tensor after tensor; floats without NaN.
        sizes: The number of scores of each tensor; they sum to `len(scores)`.
        k: How many to keep.
        scope: "global" to compare all scores; "layer" to keep the same fraction of each tensor (the fractions are
            rounded by largest remainder, so that the counts sum to k); "erk" to share k in proportion to `shares`.
        shares: What the count of each tensor is in proportion to under "erk"; see `erk_shares`.
        min_per_layer: Each tensor keeps at least so many of its weights, or all that it has: one number for all, or one
            for each. Taken from the k.
        eligible: Booleans that mark which weights may be kept at all; None for all.
        kept: Booleans that mark eligible weights which are kept whatever they score; None for none. They count among
            the k.

    Returns:
        A flat boolean array with exactly k entries set.

    Raises:
        ValueError: If fewer than k weights are eligible, or the floors need more than k.
    """
    sizes = np.asarray(sizes, np.int64)
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for size, end in zip(sizes, ends)]
    available = sizes if eligible is None else np.array([np.count_nonzero(eligible[part]) for part in parts])
    if kept is None and scope == "global" and not np.any(min_per_layer) and k <= available.sum():
        return top_k(scores, k, eligible)
    keep = np.zeros(scores.size, bool) if kept is None else kept.copy()
    taken = np.array([np.count_nonzero(keep[part]) for part in parts])
    counts = quotas(sizes, k, available, scope=scope, shares=shares, min_per_layer=min_per_layer, taken=taken)
    if kept is not None:
        eligible = ~keep if eligible is None else eligible & ~keep
    for part, missing in zip(parts, counts - taken):
        if missing:
            keep[part] |= top_k(scores[part], missing, None if eligible is None else eligible[part])
    rest = k - int(counts.sum())
    if not rest:
        return keep
    keep |= top_k(scores, rest, ~keep if eligible is None else eligible & ~keep)
    return keep


def quotas(
    sizes: Sequence[int],
    k: int,
    available: np.ndarray,
    *,
    scope: str = "global",
    shares: Sequence[float] | None = None,
    min_per_layer: int | Sequence[int] = 0,
    taken: np.ndarray | int = 0,
) -> np.ndarray:
    """Returns how many weights each tensor keeps before what is left of k goes to the best of all others.

    The arguments that are not explained here are those of `select`.

    Args:
        sizes: The number of scores of each tensor.
        k: How many to keep in all.
        available: How many scores of each tensor are eligible.
        scope: As in `select`.
        shares: As in `select`.
        min_per_layer: As in `select`.
        taken: How many of each tensor are kept in any case.

    Returns:
        int64 counts: the floors where all scores are compared, and counts that sum to k otherwise.

    Raises:
        ValueError: If fewer than k weights are eligible, or the floors need more than k.
    """
    sizes = np.asarray(sizes, np.int64)
    if k > available.sum():
        raise ValueError(f"Expected at least {k} weights that may be kept. Received: {available.sum()}")
    floors = np.maximum(np.minimum(min_per_layer, available), taken)
    if floors.sum() > k:
        raise ValueError(
            f"Expected a floor that the {k} kept weights can fill; over {len(sizes)} tensors it needs {floors.sum()}. "
            f"Lower `min_per_layer` or `sparsity`. Received: min_per_layer={min_per_layer}"
        )
    return floors if scope == "global" else apportion(k, sizes if scope == "layer" else shares, floors, available)


def erk_shares(shapes: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns what each tensor's count of kept weights is in proportion to under "erk" (Erdős–Rényi kernel).

    The density of a tensor is ε·Σ shape / Π shape, so that its count is in proportion to the sum of its sizes. Tensors
    that would get more weights than they have stay dense, and the others share what is left: `apportion` sees to it.

    Args:
        shapes: The shapes of the tensors, the window of a convolution included.

    References:
        - [RigL](https://arxiv.org/abs/1911.11134), [SET](https://arxiv.org/abs/1707.04780)
    """
    return np.array([sum(shape) for shape in shapes], np.float64)


def apportion(k: int, sizes: Sequence[float], floors: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Shares k among tensors in proportion to their sizes, within bounds, by largest remainder.

    Args:
        k: The number to share, with sum(floors) <= k <= sum(caps).
        sizes: The sizes of the tensors, or other numbers that are not negative.
        floors: The least that each gets.
        caps: The most that each gets, at least its floor.

    Returns:
        int64 counts that sum to k. Among equal remainders the earlier tensor gets the unit.
    """
    sizes, floors, caps = np.asarray(sizes), np.asarray(floors, np.int64), np.asarray(caps, np.int64)
    shares = np.zeros(len(sizes))
    free = np.ones(len(sizes), bool)
    while True:
        left = k - shares[~free].sum()
        shares[free] = left * (sizes[free] / max(sizes[free].sum(), 1))
        low, high = free & (shares < floors), free & (shares > caps)
        # Binding first the side that is violated more keeps the rest feasible.
        excess = (shares - caps)[high].sum() - (floors - shares)[low].sum()
        bind = high if excess > 0 else low if low.any() else high
        if not bind.any():
            break
        shares[bind] = caps[bind] if bind is high else floors[bind]
        free &= ~bind
    counts = np.clip(np.floor(shares + 1e-9).astype(np.int64), floors, caps)
    while (missing := k - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = counts < caps if step > 0 else counts > floors
        order = np.argsort(-step * (shares - counts), kind="stable")
        chosen = order[room[order]][: abs(missing)]
        counts[chosen] += step
    return counts
