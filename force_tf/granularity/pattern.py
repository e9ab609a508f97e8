"""N:M patterns: a few of every group of consecutive weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from force_tf.granularity.base import BoundGranularity, Plan, split

if TYPE_CHECKING:
    from force_tf.models.weights import PrunableWeight


class Pattern(BoundGranularity):
    """At most n of every m consecutive weights along the input axis.

    What is counted are weights. The groups of m start at index 0; of a last group of r < m, n · r / m are kept, rounded
    up. Before its last step a search allows more of each group, as its density asks for.

    Args:
        n: How many weights of a group are kept at most.
        m: How many weights a group has.
    """

    def __init__(self, n: int, m: int):
        self.n, self.m = n, m
        self.value = f"{n}:{m}"

    def limit(self, weight: PrunableWeight) -> int:
        inputs = math.prod(weight.shape[axis] for axis in weight.input_axes)
        groups, rest = divmod(inputs, self.m)
        return (self.n * groups - (-self.n * rest // self.m)) * (weight.size // inputs)

    def cut(self, plan: Plan, step: int, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        needed = np.empty(scores.size, np.min_scalar_type(self.m))
        parts = split(needed, plan.weights), split(scores, plan.weights), split(eligible, plan.weights)
        for weight, part, *arrays in zip(plan.weights, *parts):
            part[...] = self._allowances(weight, *arrays)
        kept = None
        for allowance, count in self._stages(plan, step):
            allowed = needed <= allowance
            if eligible is not None:
                allowed &= eligible
            kept = plan.select(count, scores, allowed, kept)
        return kept

    def _stages(self, plan: Plan, step: int) -> list[tuple[int, int]]:
        """Pairs of how many of a group are allowed and how many weights to keep in all, both rising.

        The last pair is that of the step. What is kept in the end must be among what is kept now if pruned weights
        cannot return; so what the later, narrower steps keep is chosen first, as if they came now.
        """
        allowances = [max(self.n, math.ceil(round(self.m * density, 9))) for density in plan.densities]
        allowances[-1] = self.n
        now = allowances[step - 1]
        counts = {now: plan.counts[step - 1]}
        if not plan.revive:
            for allowance, count in zip(allowances[step:], plan.counts[step:]):
                if allowance < now:
                    counts[allowance] = max(count, counts.get(allowance, 0))
        return sorted(counts.items())

    def _allowances(self, weight: PrunableWeight, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        """How many of a group must be allowed so that each weight is among them."""
        axes = weight.input_axes
        moved = np.moveaxis(scores, axes, range(len(axes)))
        inputs = math.prod(moved.shape[: len(axes)])
        if eligible is not None:
            eligible = np.moveaxis(eligible, axes, range(len(axes))).reshape(inputs, -1)
        ranks = self._ranks(moved.reshape(inputs, -1), eligible)
        rest = inputs % self.m
        if rest:  # a share of its own: the k-th of r is allowed when ceil(allowance · r / m) >= k
            ranks[-rest:] = ranks[-rest:].astype(np.int64) * self.m // rest
        return np.moveaxis(ranks.reshape(moved.shape) + ranks.dtype.type(1), range(len(axes)), axes)

    def _ranks(self, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        """How many eligible weights of its group come before each weight.

        Comparing all pairs takes a tenth of the time of `np.argsort` for the usual, small groups.
        """
        ranks = np.zeros(scores.shape, np.min_scalar_type(self.m))
        for later in range(1, min(self.m, len(scores))):
            behind = slice(later, None, self.m)
            for earlier in range(later):
                ahead = slice(earlier, len(scores) - (later - earlier), self.m)  # the last group may lack a later one
                first = scores[ahead] >= scores[behind]  # among equal scores the lower index
                second = ~first
                if eligible is not None:
                    first &= eligible[ahead]
                    second &= eligible[behind]
                ranks[behind] += first
                ranks[ahead] += second
        return ranks
