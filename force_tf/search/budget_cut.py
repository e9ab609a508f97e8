"""The cuts of a search that ends at a budget instead of a sparsity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from force_tf.granularity import Plan, split
from force_tf.search.host_cut import HostCut
from force_tf.search.limits import BoundLimits

# How much of the budget is used up where a cut is near enough: the last one, and that which aims the schedule.
_NEAR, _NEAR_FIRST = 0.99, 0.9
# Costs that are counts of weights are met exactly.
_EXACT = {"parameters"}
Cost = Callable[[Sequence[np.ndarray]], Mapping[str, int] | None]


class BudgetCut(HostCut):
    """Cuts until the network fits a budget, and then so that it is the densest that does.

    The scores of the dense network tell at which density that would be, and the schedule leads there. The first step
    whose cut fits is the last one, and so is the last step of the schedule: it cuts anew, by bisection over the number
    of weights that are kept.

    Args:
        *of_host_cut: As for `HostCut`, with a plan that keeps everything.
        limits: The budget.
        plan_to: Returns the plan of all steps that lead to a density.
        show: Called with the density of each cut that is tried, since measuring its costs may take long.
    """

    def __init__(
        self,
        *of_host_cut: Any,
        limits: BoundLimits,
        plan_to: Callable[[float], Plan],
        show: Callable[[float], None],
    ):
        super().__init__(*of_host_cut)
        self._limits, self._plan_to, self._show = limits, plan_to, show
        self._fewest = max(1, self._granularity.fewest(self._plan.weights, self._plan.floors))
        self._done = False

    def _cut(self, step: int, eligible: np.ndarray | None) -> None:
        if step == 1:
            self._look_at_dense()
            units = sum(self._plan.sizes)
            self._plan = self._plan_to(self._densest(step, eligible, _NEAR_FIRST, self._limits.costs) / units)
        self._keep = self._granularity.cut(self._plan, step, self._scores, eligible)
        if step == len(self._plan.counts) or self._limits.share(self._costs_of(self._keep)) <= 1:
            self._done = True
            self._cut_last(step, eligible)
            if not self._invert:
                self._show_last_cut(eligible)

    def _cut_last(self, step: int, eligible: np.ndarray | None) -> None:
        """Cuts to the densest network within the limits, which are measured in the end."""
        for cost in (self._limits.costs, self._limits.measured):  # should a forecast have been too low
            self._keep = self._cut_to(self._densest(step, eligible, _NEAR, cost), step, eligible)
            self.costs = self._limits.measured(self._used_of(self._keep))
            if self._limits.share(self.costs) <= 1:
                return

    def is_last(self, step: int) -> bool:
        return self._done

    def _cut_to(self, count: int, step: int, eligible: np.ndarray | None) -> np.ndarray:
        plan = dataclasses.replace(self._plan, counts=[count] * len(self._plan.counts))
        return self._granularity.cut(plan, step, self._scores, eligible)

    def _used_of(self, keep: np.ndarray) -> list[np.ndarray]:
        return split(self._granularity.used(self._plan, keep), self._plan.weights)

    def _costs_of(self, keep: np.ndarray) -> Mapping[str, int] | None:
        return self._limits.costs(self._used_of(keep))

    def _densest(self, step: int, eligible: np.ndarray | None, near: float, cost: Cost) -> int:
        """Returns the largest number of units whose cut fits, or one near to it.

        Args:
            step: The number of the step.
            eligible: What may be kept; None for all.
            near: The part of the budget that is enough.
            cost: Returns the costs under masks.

        Raises:
            ValueError: If none does that has not collapsed.
        """

        def share_of(count: int) -> tuple[float, bool]:
            found = cost(self._used_of(self._cut_to(count, step, eligible)))
            return self._limits.share(found), found is None

        low, high = self._fewest, self._most(eligible)
        is_exact = near == _NEAR and set(self._limits.most) <= _EXACT
        (at_low, is_dead), (at_high, _) = share_of(low), share_of(high)
        if at_low > 1:
            raise self._impossible(low, step, eligible)
        if at_high <= 1:
            return high
        tries = 0
        while high - low > 1:
            tries += 1
            # Costs are nearly proportional; where that does not help, halving does.
            part = 0.5 if is_exact or tries % 2 == 0 else ((1 + near) / 2 - at_low) / (at_high - at_low)
            middle = min(max(low + round(min(max(part, 0.1), 0.9) * (high - low)), low + 1), high - 1)
            self._show(middle / sum(self._plan.sizes))
            found, collapsed = share_of(middle)
            if found > 1:
                high, at_high = middle, found
                continue
            low, at_low, is_dead = middle, found, collapsed
            if not is_exact and found >= near:
                break
        if is_dead:
            raise self._impossible(high, step, eligible)
        return low

    def _most(self, eligible: np.ndarray | None) -> int:
        if eligible is None:
            return sum(self._plan.sizes)
        if self._granularity.by_weight:
            return int(np.count_nonzero(eligible))
        return int(np.count_nonzero(self._granularity.used(self._plan, eligible)))

    def _impossible(self, count: int, step: int, eligible: np.ndarray | None) -> ValueError:
        """Returns the error for a budget that is below what the sparsest cut costs that has not collapsed."""
        least = self._limits.measured(self._used_of(self._cut_to(count, step, eligible)))
        return ValueError(
            "Expected a budget that a network can meet whose output depends on its input; by these scores the least "
            f"such network has {_listed(least)}. Received: a budget of {_listed(self._limits.most)}, for a dense "
            f"network of {_listed(self._limits.dense)}"
        )


def _listed(costs: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={cost:,}" for name, cost in costs.items())
