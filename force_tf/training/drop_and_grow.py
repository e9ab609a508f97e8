"""How masks move: one update is a cut, and then a swap within each tensor. Arrays alone; no Keras.

All weights stand in one flat array, tensor after tensor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from force_tf.support.top_k import top_k

Cut = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What a swap needs.

    Attributes:
        magnitudes: |θ|, flat floats: the smallest of the kept weights are dropped.
        growth: The scores, flat floats, of which the largest are grown.
        fraction: The part of each tensor's kept weights to drop, and to grow as many; in [0, 1].
        round_up: Whether the count is rounded up, or down.
    """

    magnitudes: np.ndarray
    growth: np.ndarray
    fraction: float
    round_up: bool = False

    def count(self, kept: int) -> int:
        """Returns how many of so many kept weights are dropped."""
        # A product such as 0.3 * 10 may lie an ulp below or above the whole number that is meant.
        count = round(self.fraction * kept, 9)
        return min(kept, math.ceil(count) if self.round_up else math.floor(count))


class Update(NamedTuple):
    """What an update makes of masks.

    Attributes:
        kept: The new masks, flat booleans.
        survivors: The weights that keep their value and what optimizers remember of them, flat booleans. All others
            start from zero: what is pruned is zero, and what is grown begins there.
    """

    kept: np.ndarray
    survivors: np.ndarray


def update(kept: np.ndarray, sizes: Sequence[int], *, cut: Cut | None = None, swap: Exchange | None = None) -> Update:
    """Returns the masks after one update: those of the cut, in which then each tensor exchanges weights.

    A swap drops the n smallest |θ| of a tensor's kept weights, and grows the n largest scores of those that are not
    kept then, the ones just dropped among them. These come back as they were, for they have not left; what the cut has
    pruned has, and starts from zero if it comes back. Among equal weights the one of lower index stays, or is grown.

    Args:
        kept: Flat booleans; True marks a weight that is kept.
        sizes: The number of weights of each tensor.
        cut: Takes `kept` and returns what is kept of all weights; None for no cut.
        swap: What the swap needs; None for no swap.

    Returns:
        The new masks, and what survives of the old ones. A swap leaves the number of kept weights of each tensor as it
        is.
    """
    after = kept.copy() if cut is None else cut(kept)
    survivors = kept & after
    if swap is not None:
        ends = np.cumsum(np.asarray(sizes, np.int64))
        for size, end in zip(sizes, ends):
            part = slice(end - size, end)
            after[part] = _swapped(after[part], swap, part)
    return Update(after, survivors & after)


def _swapped(kept: np.ndarray, swap: Exchange, part: slice) -> np.ndarray:
    number = int(np.count_nonzero(kept))
    count = swap.count(number)
    if not count:
        return kept
    stays = top_k(swap.magnitudes[part], number - count, kept)
    return stays | top_k(swap.growth[part], count, ~stays)
