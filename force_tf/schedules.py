"""Density schedules: how fast the fraction of kept weights falls from 1 to its final value.

A schedule is any callable `(step, steps, density) -> density` with `step` counting from 1 to `steps`. It must end at
the final density: `schedule(steps, steps, density) == density`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from force_tf.support.arguments import one_of

__all__ = [
    "Levels",
    "Schedule",
    "at_end",
    "constant",
    "cubic",
    "densities",
    "exponential",
    "get",
    "halving",
    "linear",
    "one_by_one",
    "snip_it",
]

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


def cubic(step: int, steps: int, density: float) -> float:
    """Returns d + (1 − d)(1 − t/T)³: most is removed early, while the network can still recover.

    Args:
        step: t, from 0 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.

    References:
        - [To prune, or not to prune](https://arxiv.org/abs/1710.01878)
    """
    return density + (1.0 - density) * (1.0 - step / steps) ** 3


def halving(step: int, steps: int, density: float) -> float:
    """Returns max(d, 2^−t): every step removes half of what is left, and the last one what is still in excess.

    Args:
        step: t, from 0 to `steps`.
        steps: T, the number of steps; log2(1/d) of them, rounded up, get to d by halves.
        density: d, the final fraction of kept weights.

    References:
        - [FlipOut](https://arxiv.org/abs/2009.02594)
    """
    return density if step == steps else max(density, 0.5**step)


def snip_it(step: int, steps: int, density: float) -> float:
    """Returns 1 − κ + (κ − ½)·2^(1−t), and d = 1 − κ in the last step: half at once, then half of the way that is left.

    Args:
        step: t, from 0 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.

    References:
        - [SNIP-it](https://arxiv.org/abs/2006.00896)
    """
    if step == steps or density >= 0.5:
        return density if step else 1.0
    return density + (0.5 - density) * 0.5 ** (step - 1) if step else 1.0


def one_by_one(step: int, steps: int, density: float) -> float:
    """Returns d: every step prunes one channel, until d is reached; the last one whatever is still in excess.

    For `granularity="channel"`.

    Args:
        step: t, from 0 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.

    References:
        - Mozer and Smolensky, Skeletonization, NIPS 1988
    """
    return density if step else 1.0


def constant(step: int, steps: int, density: float) -> float:
    """Returns d in every step: all is removed at once, at the beginning.

    Args:
        step: t, from 0 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.
    """
    return density


def at_end(step: int, steps: int, density: float) -> float:
    """Returns 1, and d in the last step: all is removed at once, at the end.

    Args:
        step: t, from 0 to `steps`.
        steps: T, the number of steps.
        density: d, the final fraction of kept weights.
    """
    return density if step == steps else 1.0


class Levels:
    """A list of densities, one per step, as a schedule.

    Args:
        densities: The fraction of kept weights of each step, in [0, 1]; the last is the final one.

    Raises:
        TypeError: If an entry is no number.
        ValueError: If there is none.
    """

    def __init__(self, densities: Sequence[float]):
        self.densities = tuple(_number(value, step) for step, value in enumerate(densities, 1))
        if not self.densities:
            raise ValueError("Expected a list of densities, one per step. Received: an empty list")

    def __repr__(self) -> str:
        return f"Levels({list(self.densities)})"

    def __call__(self, step: int, steps: int, density: float) -> float:
        if steps != len(self.densities):
            raise ValueError(
                f"Expected as many steps as the schedule lists densities. Received: {steps} steps and "
                f"{len(self.densities)} densities"
            )
        return self.densities[step - 1] if step else 1.0


SCHEDULES: dict[str, Schedule] = {
    "exponential": exponential,
    "linear": linear,
    "cubic": cubic,
    "halving": halving,
    "snip_it": snip_it,
    "constant": constant,
    "at_end": at_end,
    "one_by_one": one_by_one,
}


def get(schedule: str | Sequence[float] | Schedule) -> Schedule:
    """Returns the schedule of that name, the callable itself, or the schedule that a list of densities stands for.

    Raises:
        ValueError: If no schedule has that name.
        TypeError: If `schedule` is none of these, or a callable of other arguments, such as a schedule of tfmot's.
    """
    if callable(schedule):
        _check_takes_three(schedule)
        return schedule
    if isinstance(schedule, (list, tuple)):
        return Levels(schedule)
    if not isinstance(schedule, str):
        raise TypeError(
            "Expected `schedule` to be a name, a list of densities or a callable (step, steps, density). "
            f"Received: schedule={schedule!r}"
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


def _check_takes_three(schedule: Schedule) -> None:
    try:
        signature = inspect.signature(schedule)
    except (TypeError, ValueError):  # some callables written in C do not tell
        return
    try:
        signature.bind(1, 1, 1.0)
    except TypeError:
        raise TypeError(
            "Expected a callable `schedule` to take (step, steps, density); docs/from_tfmot.md lists what stands for "
            f"tfmot's schedules. Received: schedule={schedule!r}, which takes {signature}"
        ) from None


def _number(value: Any, step: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"Expected the schedule to return densities in [0, 1]. Received: {value!r} at step {step}"
        ) from None
