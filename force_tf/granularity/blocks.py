"""Blocks of weights, each kept or pruned as a whole."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from force_tf.granularity.base import BoundGranularity, Plan, split

if TYPE_CHECKING:
    from force_tf.models.weights import PrunableWeight


class Blocks(BoundGranularity):
    """Blocks of weights, each kept or pruned as a whole by the sum of its scores.

    Args:
        shape: The lengths of a block along the last axes of every weight tensor; it is 1 along those before. Blocks
            start at index 0, and where they do not divide an axis the last ones are shorter.
    """

    by_weight = False

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
        kept = np.empty(scores.size, bool)
        ends = np.cumsum(plan.sizes)[:-1]
        for weight, part, kept_blocks in zip(plan.weights, split(kept, plan.weights), np.split(blocks, ends)):
            part[...] = self._spread(weight, kept_blocks)
        return kept

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
