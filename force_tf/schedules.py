"""Density schedules: how fast the fraction of kept weights falls from 1 to its final value.

A schedule is any callable `(step, steps, density) -> density` with `step` counting from 1 to `steps`. It must end at
the final density: `schedule(steps, steps, density) == density`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from force_tf.support.arguments import one_of

Schedule = Callable[[int, int, float], float]


def exponential(step: int, steps: int, density: float) -> float:
    """Returns d^(t/T): every step keeps the same fraction of what the step before kept.

    Args:
        step: t, from 1 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.

    References:
        - [Progressive Skeletonization](https://arxiv.org/abs/2006.09081)
        - [SynFlow](https://arxiv.org/abs/2006.05467)
    """
    return density ** (step / steps)


def linear(step: int, steps: int, density: float) -> float:
    """Returns 1 − (t/T)(1 − d): every step removes the same number of weights.

    Args:
        step: t, from 1 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.

    References:
        - [Progressive Skeletonization](https://arxiv.org/abs/2006.09081)
    """
    return 1.0 - step / steps * (1.0 - density)


SCHEDULES: dict[str, Schedule] = {"exponential": exponential, "linear": linear}


def get(schedule: str | Schedule) -> Schedule:
    """Returns the schedule of that name, or the callable itself.

    Raises:
        ValueError: If no schedule has that name.
        TypeError: If `schedule` is neither a name nor a callable.
    """
    if callable(schedule):
        return schedule
    if not isinstance(schedule, str):
        raise TypeError(
            f"Expected `schedule` to be a name or a callable (step, steps, density). Received: schedule={schedule!r}"
        )
    return SCHEDULES[one_of("schedule", schedule, list(SCHEDULES))]


def densities(schedule: Schedule, steps: int, density: float) -> list[float]:
    """Returns the density of every step, checked.

    Args:
        schedule: A callable `(step, steps, density) -> density`.
        steps: The number of steps, at least 1.
        density: The final density, in (0, 1].

    Raises:
        TypeError: If the schedule returns something else than numbers.
        ValueError: If the schedule leaves [0, 1] or does not end at `density`.
    """
    values = [_number(schedule(step, steps, density), step) for step in range(1, steps + 1)]
    for step, value in enumerate(values, 1):
        if not 0.0 <= value <= 1.0:  # also refuses NaN
            raise ValueError(f"Expected the schedule to return densities in [0, 1]. Received: {value} at step {step}")
    if not math.isclose(values[-1], density, rel_tol=1e-9):
        raise ValueError(
            f"Expected the schedule to end at the density 1 - sparsity = {density}. "
            f"Received: {values[-1]} at the last step"
        )
    return values


def _number(value: Any, step: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"Expected the schedule to return densities in [0, 1]. Received: {value!r} at step {step}"
        ) from None
