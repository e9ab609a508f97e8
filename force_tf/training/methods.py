"""The methods by name: a table of settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from force_tf import criteria, schedules
from force_tf.support import arguments
from force_tf.training.growing_penalty import Penalty
from force_tf.training.timetable import interval
from force_tf.training.under_masks import Draws


@dataclasses.dataclass(frozen=True)
class Swap:
    """How kept weights are exchanged for pruned ones within each tensor, whose density stays.

    An update drops the n smallest |θ| of a tensor's k kept weights and grows n others, with n = fraction · k, rounded
    down. What is grown starts at zero. Those just dropped may be grown again, and are as they were then.

    Args:
        fraction: The part of the kept weights to exchange at the beginning, in (0, 1].
        grow: What is grown: "gradient" for the largest |∂L/∂θ̄|, "random", or a `force_tf.criteria.Criterion` for the
            largest of its scores.
        anneal: "cosine" for a fraction that falls as f + (fraction − f)·(1 + cos(π·t/T))/2, or "constant".
        final_fraction: f, the part at the end of a cosine.
        last: T, when swaps end: a step of the optimizer as a whole number, or a part of the training as a fraction;
            None for the `end` of pruning.
        round_up: Whether n is rounded up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of its range.

    References:
        - [RigL](https://arxiv.org/abs/1911.11134), [SET](https://arxiv.org/abs/1707.04780),
          [GraNet](https://arxiv.org/abs/2106.10404)
    """

    fraction: float = 0.3
    grow: str | criteria.Criterion = "gradient"
    anneal: str = "cosine"
    final_fraction: float = 0.0
    last: int | float | None = None
    round_up: bool = False

    def __post_init__(self):
        for name in ("fraction", "final_fraction"):
            arguments.number(name, getattr(self, name), "[0, 1]")
        arguments.one_of("anneal", self.anneal, ("cosine", "constant"))
        arguments.one_of("round_up", self.round_up, (True, False))
        if not isinstance(self.grow, criteria.Criterion):
            arguments.one_of("grow", self.grow, list(_GROWTH))
        if self.last is not None:
            interval("last", self.last)

    @property
    def criterion(self) -> criteria.Criterion:
        """What scores the weights to grow."""
        return self.grow if isinstance(self.grow, criteria.Criterion) else _GROWTH[self.grow]

    def fraction_at(self, step: float, steps: float) -> float:
        """Returns the part to exchange after a step of so many steps."""
        if self.anneal == "constant":
            return self.fraction
        part = min(max(step / steps, 0.0), 1.0)
        return self.final_fraction + (self.fraction - self.final_fraction) * (1 + math.cos(math.pi * part)) / 2


_GROWTH = {"gradient": criteria.GradientMagnitude(), "random": criteria.Random()}


@dataclasses.dataclass(frozen=True)
class Method:
    """What a name stands for.

    Attributes:
        score: What the cut compares, or None for no cut: the density stays as it is.
        schedule: How the density falls.
        scope: Within what the cut compares.
        begin: When the density begins to fall.
        end: When it has fallen; of some methods it depends on the density to reach.
        every: How many steps lie between two updates; None where `updates` tells.
        updates: How many cuts there are, given the density to reach; None for as many as fit.
        revive: Whether pruned weights may return in a cut.
        swap: What is exchanged after the cut, if anything.
        at_begin: Whether the first update takes place at `begin`, or `every` steps after it.
        batches: How many batches an update averages gradients over.
        pruned: What becomes of pruned weights until the training ends: "zero", "dense" for values that train on under
            the mask, or "random" for values that are drawn into some forward passes.
        draws: With what probability they are drawn.
        noise: λ of the noise that is added to gradients in every step; 0 for none.
        penalty: What grows on the weights that are to go, if anything: then all that the cut takes is chosen early, and
            taken in the last update.
        min_per_layer: How many weights each tensor keeps at least.
        granularity: What a cut keeps or prunes as one.
    """

    score: criteria.Criterion | None
    schedule: str | None = "cubic"
    scope: str = "global"
    begin: float = 0.0
    end: float | Callable[[float], float] = 0.75
    every: int | None = 100
    updates: Callable[[float], int] | None = None
    revive: bool = False
    swap: Swap | None = None
    at_begin: bool = True
    batches: int = 1
    pruned: str = "zero"
    draws: Draws = dataclasses.field(default_factory=Draws)
    noise: float = 0.0
    penalty: Penalty | None = None
    min_per_layer: int = 0
    granularity: str = "weight"

    @property
    def changes_steps(self) -> bool:
        """Whether the steps of the training are others than those of a model whose masks stay."""
        counts = self.score is not None and bool(self.score.counted)
        return counts or self.pruned != "zero" or self.noise > 0 or self.penalty is not None


# Of schedules that tell themselves how many cuts there are: as a function of the last density.
UPDATES: dict[Any, Callable[[float], int]] = {
    schedules.halving: lambda density: max(1, math.ceil(-math.log2(density) - 1e-9)),
    schedules.snip_it: lambda density: 7,
    schedules.constant: lambda density: 1,
    schedules.at_end: lambda density: 1,
}

METHODS = {
    "gmp": Method(criteria.Magnitude(), scope="layer"),
    "set": Method(None, None, end=1.0, swap=Swap(0.3, "random", anneal="constant"), at_begin=False),
    "rigl": Method(None, None, swap=Swap(0.3, "gradient")),
    "granet": Method(
        criteria.Magnitude(),
        end=110 / 160,
        every=1000,
        swap=Swap(0.5, "gradient", final_fraction=0.005, last=1.0, round_up=True),
        at_begin=False,
        min_per_layer=1,  # a layer that is empty never grows again
    ),
    "dpf": Method(criteria.Magnitude(), every=16, revive=True, pruned="dense"),
    "annealing": Method(
        criteria.Magnitude(), "constant", every=None, updates=UPDATES[schedules.constant], pruned="random"
    ),
    "fggp": Method(criteria.Pool(), end=0.8, every=2000),
    # Of 80 epochs, one cut after every fourth from the eighth on.
    "snip_it": Method(
        criteria.SNIP(), "snip_it", begin=0.05, end=0.4, every=None, updates=UPDATES[schedules.snip_it], batches=5
    ),
    "snap_it": Method(
        criteria.SNAP(),
        "snip_it",
        begin=0.05,
        end=0.4,
        every=None,
        updates=UPDATES[schedules.snip_it],
        batches=5,
        granularity="channel",
    ),
    # The last cut leaves as much time as there is between two.
    "flipout": Method(
        criteria.SignFlips(),
        "halving",
        end=lambda density: 1 - 1 / (UPDATES[schedules.halving](density) + 1),
        every=None,
        updates=UPDATES[schedules.halving],
        noise=1.0,
    ),
    "greg": Method(criteria.Magnitude(), "at_end", "layer", every=5, penalty=Penalty(), min_per_layer=1),
    "greg_2": Method(
        criteria.Magnitude(), "at_end", "layer", every=5, penalty=Penalty(pick_ceiling=0.01), min_per_layer=1
    ),
}


def resolve(method: Any) -> tuple[str, Method]:
    """Returns the name and the settings of a method.

    Args:
        method: A name, or a `force_tf.criteria.Criterion` for what the cut compares.

    Raises:
        TypeError: If it is neither.
        ValueError: If no method has that name; the nearest one is suggested.
    """
    if isinstance(method, criteria.Criterion):
        return type(method).__name__, Method(method)
    if not isinstance(method, str):
        raise TypeError(f"Expected `method` to be a name or a force_tf.criteria.Criterion. Received: method={method!r}")
    return method, METHODS[arguments.one_of("method", method, list(METHODS))]
