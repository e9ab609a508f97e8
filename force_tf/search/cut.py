"""The cut of each step: scores come in, masks go out, and what is left of all scores are a few numbers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from force_tf.granularity import Plan
from force_tf.search.zero_scores import ZeroScores


@dataclasses.dataclass(frozen=True)
class CutFacts:
    """What a cut tells of itself.

    Attributes:
        kept: How many weights are kept, as the search would end now.
        saliency_kept: The part of the sum of all absolute scores that the kept weights have.
        revived: How many weights came back.
    """

    kept: int
    saliency_kept: float
    revived: int


class Cut(abc.ABC):
    """Cuts the scores of one step after another.

    Args:
        plan: What the search keeps.
        zeros: Is shown the scores where zeros may decide.
        invert: Whether to keep the lowest scores instead.
        dtype: The float type in which scores are compared.

    Attributes:
        costs: What the network costs that the search ends with, where it searches to a budget.
    """

    costs: Mapping[str, int] | None = None

    def __init__(self, plan: Plan, zeros: ZeroScores, invert: bool, dtype: type):
        self._plan, self._zeros, self._invert, self._dtype = plan, zeros, invert, dtype

    @abc.abstractmethod
    def __call__(self, step: int, scores: Iterable[Any]) -> CutFacts:
        """Cuts the scores of a step.

        Args:
            step: The step, from 1.
            scores: What a criterion returned: floats of the shape of each weight.

        Raises:
            ValueError: If there is not one tensor of scores for each weight, of its shape, or if scores are NaN.
            TypeError: If there are no scores.
        """

    @abc.abstractmethod
    def masks(self) -> list[Any]:
        """Returns what the last cut keeps: booleans of the shape of each weight."""

    @abc.abstractmethod
    def marks(self) -> np.ndarray:
        """Returns it as one flat array."""

    @abc.abstractmethod
    def restore(self, marks: np.ndarray) -> None:
        """Goes on from what `marks` returned."""

    @abc.abstractmethod
    def used(self) -> np.ndarray:
        """Returns the masks that the search ends with, as one flat array."""

    def is_last(self, step: int) -> bool:
        """Whether the search ends with the cut of a step."""
        return step == len(self._plan.counts)

    def _zeros_tell(self, step: int) -> bool:
        """Whether zeros decide in the cut of a step; in an inverted one they come first."""
        return self.is_last(step) and not self._invert
