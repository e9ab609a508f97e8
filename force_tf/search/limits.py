"""What a search to a budget asks of the budget: the search itself knows nothing of smaller models and files."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from force_tf.models.weights import PrunableWeight


class Limits(abc.ABC):
    """Limits of what a pruned network may cost."""

    @abc.abstractmethod
    def bound(self, model: Any, weights: Sequence[PrunableWeight]) -> BoundLimits:
        """Returns the limits for the masks of a model.

        Args:
            model: The model to be pruned.
            weights: Its prunable weights.

        Raises:
            ValueError: If the costs of the model cannot be measured.
        """


class BoundLimits(abc.ABC):
    """Limits for the masks of a model.

    Attributes:
        dense: What the model costs without masks, by the names of the costs.
        most: What it may cost.
    """

    dense: Mapping[str, int]
    most: Mapping[str, int]

    @abc.abstractmethod
    def costs(self, masks: Sequence[np.ndarray]) -> Mapping[str, int] | None:
        """Returns what the network costs under masks, as far as it matters here; None if it has collapsed.

        It may be forecast, and less than the truth where that is above the limits too.
        """

    @abc.abstractmethod
    def measured(self, masks: Sequence[np.ndarray]) -> Mapping[str, int] | None:
        """Returns what the network costs under masks, measured on the network itself; None if it has collapsed."""

    def share(self, costs: Mapping[str, int] | None) -> float:
        """Returns the largest part of a limit that is used up: at most 1 if costs are within all of them."""
        if costs is None:
            return 0.0
        # A small fraction of what the dense network costs may be nothing at all.
        return max(costs[name] / most if most else math.inf for name, most in self.most.items())


def check_budget(budget: Any, sparsity: float | None, repair: bool) -> Limits | None:
    """Returns what `budget=` says, checked.

    Raises:
        TypeError: If it is no budget.
        ValueError: If there is a sparsity too, or a repair.
    """
    if budget is None:
        return None
    if not isinstance(budget, Limits):
        raise TypeError(f"Expected `budget` to be a force_tf.Budget or None. Received: budget={budget!r}")
    if sparsity is not None:
        raise ValueError(
            "Expected either `sparsity` or `budget`, since a budget decides how many weights are removed. "
            f"Received: sparsity={sparsity}, budget={budget!r}"
        )
    if repair:
        raise ValueError(
            "Expected repair=False with a budget, since dead weights cost nothing of what `shrink` leaves. "
            f"Received: repair=True, budget={budget!r}"
        )
    return budget
