"""The cut by NumPy, of all scores in one flat array."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from force_tf.granularity import BoundGranularity, Plan, split
from force_tf.search.cut import Cut, CutFacts
from force_tf.search.flat_scores import fill, saliency_kept
from force_tf.search.repair import Repair
from force_tf.search.zero_scores import ZeroScores
from force_tf.support.blocks import over_blocks


class HostCut(Cut):
    """The cut by NumPy, for every granularity.

    Args:
        plan: What the search keeps.
        zeros: Is shown the scores where zeros may decide.
        invert: Whether to keep the lowest scores instead.
        dtype: The float type in which scores are compared.
        granularity: What is kept or pruned as one.
        keep_memory: Whether to keep the memory of the scores from one cut to the next: new memory of that size costs as
            much as filling it.
        repair: What the last cut goes through; None for nothing.
    """

    def __init__(
        self,
        plan: Plan,
        zeros: ZeroScores,
        invert: bool,
        dtype: type,
        granularity: BoundGranularity,
        keep_memory: bool,
        repair: Repair | None = None,
    ):
        super().__init__(plan, zeros, invert, dtype)
        self._granularity, self._keep_memory, self._repair = granularity, keep_memory, repair
        self._keep = np.ones(sum(weight.size for weight in plan.weights), bool)
        self._scores: np.ndarray | None = None
        self._total = 0.0  # of the absolute scores

    def __call__(self, step: int, scores: Iterable[Any]) -> CutFacts:
        before = self._keep
        self._fill(scores)
        self._cut(step, self._eligible(step))
        facts = self._facts(before)
        if not self._keep_memory:
            self._scores = None
        return facts

    def _cut(self, step: int, eligible: np.ndarray | None) -> None:
        self._keep = self._granularity.cut(self._plan, step, self._scores, eligible)
        if step == 1:
            self._look_at_dense()
        if self._zeros_tell(step):
            self._show_last_cut(eligible)
        if self._repair and self.is_last(step):
            self._keep = self._repair(self._plan, self._keep, self._scores)

    def _fill(self, scores: Iterable[Any]) -> None:
        if self._scores is None:
            self._scores = np.empty(self._keep.size, self._dtype)
        self._total = fill(self._scores, scores, self._plan.weights)
        if self._invert:
            np.negative(self._scores, out=self._scores)

    def _eligible(self, step: int) -> np.ndarray | None:
        return None if self._plan.revive or step == 1 else self._keep

    def _facts(self, before: np.ndarray) -> CutFacts:
        used, keep = self.used(), self._keep

        def revived(block):
            return np.count_nonzero(keep[block] > before[block])

        return CutFacts(
            kept=int(np.count_nonzero(used)),
            saliency_kept=saliency_kept(self._scores, keep, self._total),
            revived=int(sum(over_blocks(revived, keep.size))),
        )

    def _look_at_dense(self) -> None:
        self._zeros.look_at_dense([part.any() for part in split(self._scores, self._plan.weights)])

    def _show_last_cut(self, eligible: np.ndarray | None) -> None:
        if eligible is None:
            candidates, scored = self._scores.size, int(np.count_nonzero(self._scores))
        else:
            parts = zip(split(self._scores, self._plan.weights), split(eligible, self._plan.weights))
            candidates = int(np.count_nonzero(eligible))
            scored = sum(int(np.count_nonzero((part != 0) & allowed)) for part, allowed in parts)
        self._zeros.look_at_last_cut(int(np.count_nonzero(self._keep)), candidates, scored)

    def masks(self) -> list[np.ndarray]:
        return split(self._keep, self._plan.weights)

    def marks(self) -> np.ndarray:
        return self._keep

    def restore(self, marks: np.ndarray) -> None:
        self._keep = marks

    def used(self) -> np.ndarray:
        return self._granularity.used(self._plan, self._keep)
