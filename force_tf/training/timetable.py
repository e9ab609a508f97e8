"""When masks move: settings in steps or parts of a `fit`, to steps of the optimizer."""

from __future__ import annotations

import bisect
import dataclasses
import math
import numbers
from typing import Any


@dataclasses.dataclass(frozen=True)
class Span:
    """The steps of one training, in the optimizer's own count.

    Attributes:
        first: What the optimizer's count was when the training began; of one that is resumed, when it first began.
        steps: How many steps it has in all, or None if nobody knows.
    """

    first: int
    steps: int | None

    def at(self, name: str, value: int | float) -> float:
        """Returns the step that a setting stands for: of a whole number itself, of a fraction a part of the training.

        Raises:
            ValueError: If it is a fraction, and the length of the training is not known.
        """
        return float(value) if isinstance(value, int) else self.first + (self.length(name, value) if value else 0.0)

    def length(self, name: str, value: int | float) -> float:
        """Returns how many steps a setting stands for."""
        if isinstance(value, int):
            return float(value)
        if self.steps is None:
            raise ValueError(
                f"Expected `{name}` as a whole number, a step of the optimizer, since the length of this training is "
                "not known (or pass `steps_per_epoch` to `fit`, `steps` to `start`). "
                f"Received: {name}={value}"
            )
        return value * self.steps


@dataclasses.dataclass(frozen=True)
class Timetable:
    """The steps after which masks move.

    Attributes:
        steps: These steps, rising. The first is `begin`, where the density begins to fall.
        cuts: How many of them, from the first on, cut.
    """

    steps: tuple[int, ...]
    cuts: int

    def due(self, before: int, now: int) -> int | None:
        """Returns the index of the last update in (before, now], or None if there is none."""
        index = bisect.bisect_right(self.steps, now) - 1
        return index if index >= 0 and self.steps[index] > before else None

    def until_next(self, now: int) -> int | None:
        """Returns how many steps there are until the next update, or None if there is no other."""
        index = bisect.bisect_right(self.steps, now)
        return self.steps[index] - now if index < len(self.steps) else None


def point(name: str, value: Any) -> int | float:
    """Returns a point in time, checked: a whole number from 0 on, or a fraction in [0, 1].

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of that range.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(
            f"Expected `{name}` to be a step of the optimizer (a whole number) or a part of the training (a fraction). "
            f"Received: {name}={value!r}"
        )
    if isinstance(value, numbers.Integral):
        if value < 0:
            raise ValueError(f"Expected `{name}` to be a step from 0 on. Received: {name}={value!r}")
        return int(value)
    if not 0 <= value <= 1:  # also refuses NaN
        raise ValueError(
            f"Expected `{name}` to be a whole number, or a part of the training in [0, 1]. Received: {name}={value!r}"
        )
    return float(value)


def interval(name: str, value: Any) -> int | float:
    """Returns a length of time, checked: a whole number from 1 on, or a fraction in (0, 1]."""
    value = point(name, value)
    if not value:
        raise ValueError(f"Expected `{name}` to be at least one step. Received: {name}={value!r}")
    return value


def make_timetable(
    span: Span,
    *,
    begin: int | float,
    end: int | float,
    every: int | float | None,
    updates: int | None,
    usual: int | None,
    last: int | float,
) -> Timetable:
    """Returns the steps at which masks move.

    Args:
        span: The training.
        begin: When the density begins to fall, or the first swap takes place.
        end: When the density has its last value at the latest.
        every: The time between two updates; None for the method's own.
        updates: How many cuts the method makes after `begin`; None for as many as fit.
        usual: The method's own `every`, in steps, of which at most a tenth of the time is taken.
        last: When the last swap takes place; `end` if the method swaps no longer than it cuts.

    Raises:
        ValueError: If a fraction is given and the length of the training is not known, `end` is not after `begin`, or
            no update fits between them.
    """
    start, stop = span.at("begin", begin), span.at("end", end)
    if stop <= start:
        raise ValueError(
            f"Expected `end` to be after `begin`. Received: begin={begin}, end={end}, which are the steps "
            f"{round(start)} and {round(stop)} of the optimizer"
        )
    if every is not None:
        length = span.length("every", every)
    elif updates is not None:
        length = (stop - start) / updates
    else:
        length = max(1, min(usual, (stop - start) // 10))
    fitting = math.floor((stop - start) / length + 1e-9)
    cuts = fitting if updates is None else updates
    if not cuts or cuts > fitting:
        raise ValueError(
            f"Expected `every` short enough for {max(cuts, 1)} of it between `begin` and `end`, which are "
            f"{round(stop - start)} steps apart. Received: every={every}, {length:g} steps"
        )
    finish = max(stop, span.at("end of the swaps", last))
    number = max(cuts, math.floor((finish - start) / length + 1e-9))
    steps = sorted({round(start + i * length) for i in range(number + 1)})
    if len(steps) < number + 1:
        raise ValueError(
            f"Expected at least one step of the optimizer between two updates. Received: every={every}, "
            f"{length:g} steps"
        )
    return Timetable(tuple(steps), cuts + 1)
