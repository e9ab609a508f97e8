"""The settings of `PruneDuringTraining`, checked as far as they can be without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from force_tf import schedules
from force_tf.granularity import Granularity, Weights, check_scope, resolve
from force_tf.support import arguments
from force_tf.training import methods
from force_tf.training.growing_penalty import Penalty
from force_tf.training.timetable import interval, point
from force_tf.training.under_masks import Draws


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training does to its masks. See `PruneDuringTraining` for the attributes that are its arguments."""

    method: str
    row: methods.Method
    sparsity: float
    initial_sparsity: float
    begin: int | float
    end: int | float
    every: int | float | None
    schedule: schedules.Schedule | None
    granularity: Granularity
    data: Any
    loss: Any
    batch_size: int
    seed: int

    @property
    def density(self) -> float:
        """The fraction of weights to keep in the end."""
        return 1.0 - self.sparsity

    def densities(self, cuts: int) -> list[float]:
        """Returns the density at `begin`, and after each of so many cuts."""
        # One that is constant has fallen at the beginning.
        first = self.density if self.schedule is schedules.constant else 1.0 - self.initial_sparsity
        if isinstance(self.schedule, schedules.Levels):
            return [first, *schedules.densities(self.schedule, cuts, self.density)]
        # The schedules fall from 1; those of a network that begins sparser are the same ones on a smaller scale.
        scaled = schedules.densities(self.schedule, cuts, min(self.density / first, 1.0))
        return [first, *(first * density for density in scaled)]


def make_settings(
    method: Any,
    sparsity: Any,
    *,
    begin: Any,
    end: Any,
    every: Any,
    initial_sparsity: Any,
    schedule: Any,
    scope: Any,
    revive: Any,
    swap: Any,
    min_per_layer: Any,
    granularity: Any,
    pruned: Any,
    draws: Any,
    noise: Any,
    penalty: Any,
    data: Any,
    loss: Any,
    batches: Any,
    batch_size: Any,
    seed: Any,
) -> Settings:
    """Returns the settings that arguments of `PruneDuringTraining` stand for.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of its range, or does not go with another.
    """
    name, row = methods.resolve(method)
    row = _with_changes(
        row,
        schedule=schedule,
        scope=scope,
        revive=revive,
        swap=swap,
        min_per_layer=min_per_layer,
        pruned=pruned,
        draws=draws,
        noise=None if noise is None else arguments.number("noise", noise, "[0, inf)"),
        penalty=penalty,
        batches=batches,
    )
    sparsity = arguments.fraction("sparsity", sparsity)
    own_end = row.end(1.0 - sparsity) if callable(row.end) else row.end
    settings = Settings(
        method=name,
        row=row,
        sparsity=sparsity,
        initial_sparsity=arguments.fraction("initial_sparsity", initial_sparsity),
        begin=point("begin", row.begin if begin is None else begin),
        end=point("end", own_end if end is None else end),
        every=None if every is None else interval("every", every),
        schedule=None if row.schedule is None else schedules.get(row.schedule),
        granularity=resolve(row.granularity if granularity is None else granularity),
        data=data,
        loss=loss,
        batch_size=arguments.integer("batch_size", batch_size, minimum=1),
        seed=arguments.integer("seed", seed, minimum=0),
    )
    _check(settings)
    return settings


def _with_changes(row: methods.Method, **given: Any) -> methods.Method:
    """Returns the settings of a method with those that the user gives instead."""
    given = {name: value for name, value in given.items() if value is not None}
    if row.score is None and (
        unused := sorted({"schedule", "scope", "revive", "min_per_layer", "penalty"} & given.keys())
    ):
        raise ValueError(
            "Expected a method that cuts; this one keeps the density of the masks, and has no use for "
            f"{' and '.join(unused)}. Received: {', '.join(f'{name}={given[name]!r}' for name in unused)}"
        )
    for name, kind in (("swap", methods.Swap), ("draws", Draws), ("penalty", Penalty)):
        if not isinstance(given.get(name), (kind, type(None))):
            raise TypeError(
                f"Expected `{name}` to be a force_tf.callbacks.{kind.__name__}. Received: {name}={given[name]!r}"
            )
    if "schedule" in given:
        given["updates"] = updates_of(given["schedule"])
    elif "penalty" in given:  # which grows in every update, and cuts in the last
        given |= {"schedule": "at_end", "updates": None}
    row = dataclasses.replace(row, **given)
    arguments.one_of("revive", row.revive, (True, False))
    arguments.integer("batches", row.batches, minimum=1)
    arguments.integer("min_per_layer", row.min_per_layer, minimum=0)
    arguments.one_of("pruned", row.pruned, ("zero", "dense", "random"))
    _check_row(row, given)
    return row


def _check_row(row: methods.Method, given: Mapping[str, Any]) -> None:
    """Raises if what becomes of pruned weights does not go with the rest."""
    if row.pruned != "zero" and (row.swap is not None or row.score is None):
        raise ValueError(
            'Expected pruned="zero" for a method that swaps, since what it grows starts at zero. '
            f"Received: pruned={row.pruned!r}"
        )
    if "draws" in given and row.pruned != "random":
        raise ValueError(f'Expected `draws` with pruned="random" alone. Received: pruned={row.pruned!r}')
    if row.noise and row.pruned != "zero":
        raise ValueError(
            "Expected noise=0 where pruned weights train on, which is no part of any method. "
            f"Received: noise={row.noise:g}, pruned={row.pruned!r}"
        )
    if row.penalty is not None:
        if row.swap is not None or row.revive or row.pruned != "zero":
            raise ValueError(
                'Expected no swap, revive=False and pruned="zero" for a method whose penalties grow, since it prunes '
                f"once, at its end. Received: swap={row.swap!r}, revive={row.revive!r}, pruned={row.pruned!r}"
            )
        if row.schedule != "at_end":
            raise ValueError(
                'Expected schedule="at_end" for a method whose penalties grow, since it prunes once. '
                f"Received: schedule={row.schedule!r}"
            )


def updates_of(schedule: str | Sequence[float] | schedules.Schedule) -> Callable[[float], int] | None:
    """Returns how many cuts a schedule makes, as a function of the last density; None for as many as there is time for.

    Raises:
        TypeError: If it is no schedule.
        ValueError: If no schedule has that name.
    """
    schedule = schedules.get(schedule)
    if isinstance(schedule, schedules.Levels):
        return lambda density: len(schedule.densities)
    return methods.UPDATES.get(schedule)


def _check(settings: Settings) -> None:
    """Raises if settings do not go with each other."""
    row, method = settings.row, settings.method
    if type(settings.begin) is type(settings.end) and settings.end <= settings.begin:
        raise ValueError(f"Expected `end` to be after `begin`. Received: begin={settings.begin}, end={settings.end}")
    if settings.initial_sparsity > settings.sparsity:
        raise ValueError(
            f"Expected `initial_sparsity` to be at most `sparsity`. Received: {settings.initial_sparsity} and "
            f"{settings.sparsity}"
        )
    if not isinstance(settings.granularity, Weights) and (row.swap is not None or row.score is None):
        raise ValueError(
            'Expected granularity="weight" for a method that swaps, since it exchanges single weights. '
            f"Received: method={method!r}, granularity={settings.granularity.value!r}"
        )
    check_scope(row.scope, settings.granularity)
    scores = [row.score, None if row.swap is None else row.swap.criterion]
    if settings.data is None and any(score is not None and score.needs_data for score in scores):
        raise ValueError(
            f"Expected `data`, such as data=(x, y): the method {method!r} takes gradients, and callbacks do not see "
            "the batches of `fit`. Received: data=None"
        )
