"""The cut: exactly the k best of all scores, by index, over the whole network or layer by layer.

Among equal scores the lower index wins, so that exactly k weights are kept whatever the ties. Scores may be infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from force_tf.support.top_k import top_k


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
    if kept is None and scope == "global" and k <= available.sum():
        keep = top_k(scores, k, eligible)
        # Floors that are filled anyhow change nothing.
        floors = np.minimum(min_per_layer, available)
        if not np.any(floors) or all(np.count_nonzero(keep[part]) >= least for part, least in zip(parts, floors)):
            return keep
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
