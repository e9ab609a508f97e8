"""The cuts of a search that ends at a budget instead of a sparsity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from force_tf.granularity import BoundGranularity, Plan, split
from force_tf.search.cut import CutFacts
from force_tf.search.host_cut import HostCut
from force_tf.search.limits import BoundLimits
from force_tf.search.zero_scores import ZeroScores

# How much of the budget is used up where a cut is near enough: the last one, and that which aims the schedule.
_NEAR, _NEAR_FIRST = 0.99, 0.9
# Costs that are counts of weights are met exactly.
_EXACT = {"parameters"}


class BudgetCut(HostCut):
    """Cuts until the network fits a budget, and then so that it is the densest that does.

    The scores of the dense network tell at which density that would be, and the schedule leads there. The first step
    whose cut fits is the last one, and so is the last step of the schedule: it cuts anew, by bisection over the number
    of weights that are kept.

    Args:
        plan: A plan that keeps everything.
        zeros: As for `HostCut`.
        invert: As for `HostCut`.
        dtype: As for `HostCut`.
        granularity: As for `HostCut`.
        limits: The budget.
        plan_to: Returns the plan of all steps that lead to a density.
    """

    def __init__(
        self,
        plan: Plan,
        zeros: ZeroScores,
        invert: bool,
        dtype: type,
        granularity: BoundGranularity,
        *,
        limits: BoundLimits,
        plan_to: Callable[[float], Plan],
    ):
        super().__init__(plan, zeros, invert, dtype, granularity)
        self._limits, self._plan_to = limits, plan_to
        self._fewest = max(1, granularity.fewest(plan.weights, plan.floors))
        self._done = False

    def __call__(self, step: int, scores: Iterable[Any]) -> CutFacts:
        self._fill(scores)
        before, eligible = self._keep, self._eligible(step)
        if step == 1:
            self._look_at_dense()
            units = sum(self._plan.sizes)
            self._plan = self._plan_to(self._densest(step, eligible, _NEAR_FIRST) / units)
        self._keep = self._granularity.cut(self._plan, step, self._scores, eligible)
        if step == len(self._plan.counts) or self._limits.share(self._costs_of(self._keep)) <= 1:
            self._done = True
            self._keep = self._cut_to(self._densest(step, eligible, _NEAR), step, eligible)
            self.costs = self._costs_of(self._keep)
            if not self._invert:
                self._show_last_cut(eligible)
        return self._facts(before)

    def is_last(self, step: int) -> bool:
        return self._done

    def _cut_to(self, count: int, step: int, eligible: np.ndarray | None) -> np.ndarray:
        plan = dataclasses.replace(self._plan, counts=[count] * len(self._plan.counts))
        return self._granularity.cut(plan, step, self._scores, eligible)

    def _costs_of(self, keep: np.ndarray) -> Mapping[str, int] | None:
        used = self._granularity.used(self._plan, keep)
        return self._limits.costs(split(used, self._plan.weights))

    def _densest(self, step: int, eligible: np.ndarray | None, near: float) -> int:
        """Returns the largest number of units whose cut fits, or one near to it.

        Raises:
            ValueError: If none does that has not collapsed.
        """

        def costs(count: int) -> Mapping[str, int] | None:
            return self._costs_of(self._cut_to(count, step, eligible))

        low, high = self._fewest, self._most(eligible)
        is_exact = near == _NEAR and set(self._limits.most) <= _EXACT
        at_low, at_high = costs(low), costs(high)
        if self._limits.share(at_low) > 1:
            raise self._impossible(at_low)
        if self._limits.share(at_high) <= 1:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            found = costs(middle)
            if self._limits.share(found) > 1:
                high, at_high = middle, found
                continue
            low, at_low = middle, found
            if not is_exact and self._limits.share(found) >= near:
                break
        if at_low is None:
            raise self._impossible(at_high)
        return low

    def _most(self, eligible: np.ndarray | None) -> int:
        if eligible is None:
            return sum(self._plan.sizes)
        if self._granularity.by_weight:
            return int(np.count_nonzero(eligible))
        return int(np.count_nonzero(self._granularity.used(self._plan, eligible)))

    def _impossible(self, least: Mapping[str, int]) -> ValueError:
        needed = ", ".join(f"{name}={cost:,}" for name, cost in least.items())
        asked = ", ".join(f"{name}={most:,}" for name, most in self._limits.most.items())
        return ValueError(
            "Expected a budget that a network can meet whose output depends on its input; by these scores the least "
            f"such network has {needed}. Received: a budget of {asked}"
        )
