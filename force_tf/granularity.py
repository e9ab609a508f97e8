"""What is kept or pruned as one: a weight, a block of weights, or a weight among the few that an N:M pattern allows."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from force_tf import arguments, selection

if TYPE_CHECKING:
    from force_tf.prunable import PrunableWeight


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many units (what the granularity counts: weights or blocks) a search keeps, and where.

    Attributes:
        weights: The prunable weights, in model order.
        densities: The density of each step.
        sizes: How many units each weight tensor has.
        floors: How many units each weight tensor keeps at least.
        counts: How many units each step keeps.
        scope: "global" or "layer", as in `selection.select`.
        revive: Whether units pruned in one step may return in a later one.
    """

    weights: Sequence[PrunableWeight]
    densities: Sequence[float]
    sizes: Sequence[int]
    floors: Sequence[int]
    counts: Sequence[int]
    scope: str
    revive: bool

    def select(
        self, count: int, scores: np.ndarray, eligible: np.ndarray | None, kept: np.ndarray | None = None
    ) -> np.ndarray:
        """Calls `selection.select` within this plan."""
        return selection.select(
            scores, self.sizes, count, scope=self.scope, min_per_layer=self.floors, eligible=eligible, kept=kept
        )


class Granularity(abc.ABC):
    """What a search counts and cuts.

    Attributes:
        value: What `PruneAtInit` takes for it.
        unit: What is counted, in the plural.
    """

    value: str | tuple[int, ...]
    unit = "weights"

    def units(self, weight: PrunableWeight) -> int:
        """Returns how many units a weight tensor has.

        Raises:
            ValueError: If the tensor cannot be pruned in such units.
        """
        return weight.size

    def limit(self, weight: PrunableWeight) -> int:
        """Returns how many of its units a weight tensor may keep in the end."""
        return self.units(weight)

    def floor(self, weight: PrunableWeight, least: int) -> int:
        """Returns how many units hold `least` weights for certain; all that may be kept if those hold fewer."""
        return min(least, self.limit(weight))

    @abc.abstractmethod
    def cut(self, plan: Plan, step: int, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        """Marks the weights that a step keeps.

        Args:
            plan: What the search keeps.
            step: The step, from 1.
            scores: All scores, flat, tensor after tensor; floats without NaN.
            eligible: Booleans that mark the weights that may be kept, as an earlier cut of this plan returned them;
                None for all.

        Returns:
            A flat array of booleans for the weights, in which exactly `plan.counts[step - 1]` units are set.
        """


class Weights(Granularity):
    """Every weight by itself."""

    value = "weight"

    def cut(self, plan: Plan, step: int, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        return plan.select(plan.counts[step - 1], scores, eligible)


class Blocks(Granularity):
    """Blocks of weights, each kept or pruned as a whole by the sum of its scores.

    Args:
        shape: The lengths of a block along the last axes of every weight tensor; it is 1 along those before. Blocks
            start at index 0, and where they do not divide an axis the last ones are shorter.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.value = shape
        self.unit = f"blocks of shape {shape}"

    def units(self, weight: PrunableWeight) -> int:
        return math.prod(-(-length // block) for length, block in zip(weight.shape, self._block(weight)))

    def floor(self, weight: PrunableWeight, least: int) -> int:
        if not 0 < least < weight.size:
            return self.units(weight) if least else 0
        # Whichever blocks are kept, they hold no less than the smallest ones.
        lengths = [
            np.minimum(block, length - np.arange(0, length, block))
            for length, block in zip(weight.shape, self._block(weight))
        ]
        held = np.cumsum(np.sort(functools.reduce(np.multiply.outer, lengths), axis=None))
        return int(np.searchsorted(held, least)) + 1

    def cut(self, plan: Plan, step: int, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        sums = np.concatenate([self._sums(*pair).ravel() for pair in zip(plan.weights, split(scores, plan.weights))])
        if eligible is not None:  # earlier cuts left blocks whole: their first weights speak for them
            parts = zip(plan.weights, split(eligible, plan.weights))
            firsts = [part[tuple(slice(None, None, n) for n in self._block(weight))] for weight, part in parts]
            eligible = np.concatenate([np.ravel(part) for part in firsts])
        blocks = plan.select(plan.counts[step - 1], sums, eligible)
        keep = np.empty(scores.size, bool)
        ends = np.cumsum(plan.sizes)[:-1]
        for weight, part, kept in zip(plan.weights, split(keep, plan.weights), np.split(blocks, ends)):
            part[...] = self._spread(weight, kept)
        return keep

    def _block(self, weight: PrunableWeight) -> tuple[int, ...]:
        """The lengths of a block along every axis of a weight tensor, no longer than the axis."""
        missing = len(self.value) - len(weight.shape)
        if any(length > 1 for length in self.value[: max(missing, 0)]):
            raise ValueError(
                f"Expected weights with an axis for every length of granularity={self.value} (choose them with "
                f"`layers=`). Received: {weight.path!r} of shape {weight.shape}"
            )
        block = (1,) * -missing + self.value[max(missing, 0) :]
        return tuple(min(pair) for pair in zip(block, weight.shape))

    def _sums(self, weight: PrunableWeight, scores: np.ndarray) -> np.ndarray:
        """Sums in float64, where sums of a few float32 are hardly ever rounded: equal blocks tie."""
        sums = scores
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, (length, block) in reversed([*enumerate(zip(weight.shape, self._block(weight)))]):
                if block > 1:
                    sums = np.add.reduceat(sums, np.arange(0, length, block), axis=axis, dtype=np.float64)
        sums = sums.astype(np.float64, copy=False)
        if np.isnan(sums).any():
            raise ValueError(
                f"Expected scores that add up in every block. Received: inf and -inf in one block of {weight.path!r}"
            )
        return sums

    def _spread(self, weight: PrunableWeight, blocks: np.ndarray) -> np.ndarray:
        """Gives all weights of a block its mark."""
        marks = blocks.reshape([-(-length // block) for length, block in zip(weight.shape, self._block(weight))])
        for axis, block in enumerate(self._block(weight)):
            if block > 1:
                marks = marks.repeat(block, axis)
        return marks[tuple(map(slice, weight.shape))]


class Pattern(Granularity):
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
        keep = None
        for allowance, count in self._stages(plan, step):
            allowed = needed <= allowance
            if eligible is not None:
                allowed &= eligible
            keep = plan.select(count, scores, allowed, keep)
        return keep

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


def resolve(value: Any) -> Granularity:
    """Returns what `granularity=` stands for.

    Args:
        value: "weight", the shape of a block as a tuple or list of integers, or a pattern such as "2:4".

    Raises:
        TypeError: If it is of another type.
        ValueError: If it is another string, a shape without a weight, or a pattern that prunes nothing or all.
    """
    if isinstance(value, (tuple, list)):
        return Blocks(arguments.lengths("granularity", value))
    if isinstance(value, str) and value == "weight":
        return Weights()
    pattern = re.fullmatch("([0-9]+):([0-9]+)", value) if isinstance(value, str) else None
    if pattern is None:
        raise (ValueError if isinstance(value, str) else TypeError)(
            'Expected `granularity` to be "weight", the shape of a block such as (1, 4), or a pattern such as "2:4". '
            f"Received: granularity={value!r}"
        )
    n, m = map(int, pattern.groups())
    if not 0 < n < m:
        raise ValueError(
            'Expected `granularity` to be a pattern "N:M" that keeps N of every M weights, 0 < N < M. '
            f"Received: granularity={value!r}"
        )
    return Pattern(n, m)


def split(flat: np.ndarray | None, weights: Sequence[PrunableWeight]) -> list[np.ndarray | None]:
    """Returns views of a flat array, one of each weight's shape; of None as many None."""
    if flat is None:
        return [None] * len(weights)
    ends = np.cumsum([weight.size for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(np.split(flat, ends[:-1]), weights)]
