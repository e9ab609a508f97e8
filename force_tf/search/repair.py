"""Live-path repair: kept weights that lie on no path give way to the best ones that do."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf.granularity import Plan, split
from force_tf.models.live_paths import LivePaths
from force_tf.models.weights import PrunableWeight
from force_tf.objective.batches import Batches

_ROUNDS = 10


def make_repair(model: Any, weights: Sequence[PrunableWeight], batches: Batches | None) -> Repair:
    """Returns the repair for a model, of which the paths can be followed.

    Args:
        model: The model to be pruned.
        weights: Its prunable weights.
        batches: The data of the search, or None.

    Raises:
        NoPathsError: If they cannot be followed.
    """
    paths = LivePaths(model, weights, batches)
    paths.check()
    return Repair(paths, weights)


class Repair:
    """Exchanges kept weights that lie on no path from an input to an output for live ones.

    Dead weights are dropped, and the pruned weights with the largest scores among those that would be live are taken in
    their stead. Where there are too few of these, as in a network that has collapsed, more weights are let in by their
    scores until enough are live, and the best of those stay.

    Args:
        paths: The paths of the network.
        weights: Its prunable weights.
    """

    def __init__(self, paths: LivePaths, weights: Sequence[PrunableWeight]):
        self._paths, self._weights = paths, weights

    def __call__(self, plan: Plan, keep: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns a cut that keeps as many weights as `keep`, and live ones alone if that can be had.

        Args:
            plan: What the search keeps.
            keep: What the last cut kept, flat.
            scores: The scores of that cut, flat.
        """
        count = int(np.count_nonzero(keep))
        needed = np.zeros(keep.size, bool)
        for _ in range(_ROUNDS):
            live = keep & self._reached(keep)
            if np.count_nonzero(live) == count:
                break
            reached = self._reached(live)  # by what stays: dead weights shall not count as the way to live ones
            if np.count_nonzero(reached) >= count:
                return plan.select(count, scores, reached, live)
            keep = self._let_in(plan, scores, live, needed, count)
        return keep

    def _let_in(self, plan: Plan, scores: np.ndarray, live: np.ndarray, needed: np.ndarray, count: int) -> np.ndarray:
        """Returns a cut of `count` weights, given a live part of it that cannot grow one weight at a time.

        Marks in `needed` what opened the way.
        """
        fixed = live | needed

        def cut(number: int) -> np.ndarray:
            return plan.select(max(number, int(np.count_nonzero(fixed))), scores, None, fixed)

        def live_in(number: int) -> np.ndarray:
            kept = cut(number)
            return kept & self._reached(kept)

        # More weights never cut a path, so that the number of live ones rises.
        numbers = range(count, scores.size + 1)
        position = bisect.bisect_left(numbers, count, key=lambda number: int(np.count_nonzero(live_in(number))))
        number = numbers[min(position, len(numbers) - 1)]
        wide, narrow = live_in(number), live_in(number - 1)
        reached = self._reached(narrow)
        if np.count_nonzero(reached) >= count >= np.count_nonzero(narrow):
            return plan.select(count, scores, reached, narrow)
        needed |= cut(number) & ~cut(number - 1)
        stays = wide & (narrow | needed)
        if np.count_nonzero(wide) < count or np.count_nonzero(stays) > count:
            return plan.select(count, scores, None, live)
        return plan.select(count, scores, wide, stays)

    def _reached(self, keep: np.ndarray) -> np.ndarray:
        return np.concatenate([each.ravel() for each in self._paths.reached(split(keep, self._weights))])
