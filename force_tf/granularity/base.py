"""What a granularity is, what it sees of a search, and the simplest of them: every weight by itself."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from force_tf.granularity import selection

ChannelScores = Callable[[np.ndarray], np.ndarray]

if TYPE_CHECKING:
    from force_tf.models.weights import PrunableWeight


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many units (what the granularity counts: weights or blocks) a search keeps, and where.

    Attributes:
        weights: The prunable weights, in model order.
        densities: The density of each step.
        sizes: How many units each weight tensor has.
        floors: How many units each weight tensor keeps at least.
        counts: How many units each step keeps.
        scope: "global", "layer" or "erk", as in `selection.select`.
        revive: Whether units pruned in one step may return in a later one.
        one_by_one: Whether every step but the last prunes one channel at most.
    """

    weights: Sequence[PrunableWeight]
    densities: Sequence[float]
    sizes: Sequence[int]
    floors: Sequence[int]
    counts: Sequence[int]
    scope: str
    revive: bool
    one_by_one: bool = False

    def select(
        self, count: int, scores: np.ndarray, eligible: np.ndarray | None, kept: np.ndarray | None = None
    ) -> np.ndarray:
        """Calls `selection.select` within this plan."""
        return selection.select(
            scores,
            self.sizes,
            count,
            scope=self.scope,
            shares=self.shares,
            min_per_layer=self.floors,
            eligible=eligible,
            kept=kept,
        )

    @property
    def shares(self) -> np.ndarray | None:
        """What the count of each tensor is in proportion to, or None where the scope asks for none."""
        if self.scope != "erk":
            return None
        # Of blocks and patterns the density is what the rule gives.
        part = [size / max(weight.size, 1) for size, weight in zip(self.sizes, self.weights)]
        return np.array(part) * selection.erk_shares([weight.shape for weight in self.weights])


class Granularity(abc.ABC):
    """What a search is told to count and cut; `bound` says how that is done in a model.

    Attributes:
        value: What `PruneAtInit` takes for it.
        unit: What is counted, in the plural.
        by_weight: Whether each weight is kept or pruned by its own score.
        on_device: Whether `device_selection` can make its cuts.
    """

    value: str | tuple[int, ...]
    unit = "weights"
    by_weight = True
    on_device = False

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
    def bound(
        self, model: Any, weights: Sequence[PrunableWeight], channel_scores: ChannelScores | None = None
    ) -> BoundGranularity:
        """Returns the granularity for a search in a model.

        Args:
            model: The model.
            weights: Its weights to prune.
            channel_scores: Of a criterion that scores whole channels: what makes their scores of the sums over the
                weights that read them.

        Raises:
            ValueError: If the model cannot be pruned so.
        """


class BoundGranularity(Granularity):
    """A granularity that knows all of the model that it needs to cut."""

    def bound(
        self, model: Any, weights: Sequence[PrunableWeight], channel_scores: ChannelScores | None = None
    ) -> BoundGranularity:
        if channel_scores is not None:
            raise ValueError(
                'Expected granularity="channel" for a criterion that scores whole channels. '
                f"Received: granularity={self.value!r}"
            )
        return self

    def fewest(self, weights: Sequence[PrunableWeight], floors: Sequence[int]) -> int:
        """Returns how many units stay whatever is pruned, if each weight tensor keeps its floor."""
        return sum(floors)

    def used(self, plan: Plan, kept: np.ndarray) -> np.ndarray:
        """Returns the masks that a search ends with, given what its last cut marked."""
        return kept

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
            A flat array of booleans for the weights, of which `used` leaves exactly `plan.counts[step - 1]` units set;
            of channels, the most that are not more.
        """


class Weights(BoundGranularity):
    """Every weight by itself."""

    value = "weight"
    on_device = True

    def cut(self, plan: Plan, step: int, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        return plan.select(plan.counts[step - 1], scores, eligible)


def split(flat: np.ndarray | None, weights: Sequence[PrunableWeight]) -> list[np.ndarray | None]:
    """Returns views of a flat array, one of each weight's shape; of None as many None."""
    if flat is None:
        return [None] * len(weights)
    ends = np.cumsum([weight.size for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(np.split(flat, ends[:-1]), weights)]
