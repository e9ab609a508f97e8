"""GReg: penalties grow on the weights that are to go, until these are almost nothing, and then they are pruned."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.granularity import split
from force_tf.layers.masking import masked
from force_tf.support import arguments
from force_tf.training.between_updates import BetweenUpdates
from force_tf.training.live_masks import LiveMasks
from force_tf.training.timetable import Timetable

# Penalties of groups grow no longer where those that stay are as many times larger than those that go.
_ENOUGH = 1000.0
_OLD = 0.9  # in the moving average of that ratio

# Of the 50,000 steps in which penalties grow in the paper, and the 40,000 in which they stay.
_PART_TO_GROW = 5 / 9
_STEP, _PICK_STEP = 1e-4, 1e-5


@dataclasses.dataclass(frozen=True)
class Penalty:
    """How penalties grow on the weights that are to be pruned.

    To the gradient of each weight λθ is added. With every update λ grows by `step` on the weights to prune, until it is
    more than `ceiling`; so it stays until the end, when they are pruned. Which ones these are is decided at the
    beginning (GReg-1), or by their own answer to penalties (GReg-2): λ then first grows by `pick_step` on all weights
    until it is `pick_ceiling`, and those with the smallest scores are taken; on the others λ is `recover` from then on.

    Args:
        step: How much λ grows in an update. None for the paper's 1e-4, or as much more as it takes to get to the
            ceiling within five ninths of the time from the beginning to the end, as in the paper.
        ceiling: What λ grows to.
        pick_ceiling: What λ grows to on all weights before some are taken, below `ceiling`; None to take them at once.
        pick_step: How much it grows in an update until then. None for the paper's 1e-5, or more, as `step`.
        recover: λ of the weights that stay, once the others were taken by `pick_ceiling`. Negative: these grow.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of its range.

    References:
        - [GReg](https://arxiv.org/abs/2012.09243)
    """

    step: float | None = None
    ceiling: float = 1.0
    pick_ceiling: float | None = None
    pick_step: float | None = None
    recover: float = -1e-4

    def __post_init__(self):
        for name in ("step", "ceiling", "pick_ceiling", "pick_step", "recover"):
            value = getattr(self, name)
            if value is not None or name in ("ceiling", "recover"):
                arguments.number(name, value, "(-inf, inf)" if name == "recover" else "(0, inf)")
        if self.pick_ceiling is not None and self.pick_ceiling >= self.ceiling:
            raise ValueError(
                "Expected `pick_ceiling` to be below `ceiling`. Received: "
                f"pick_ceiling={self.pick_ceiling!r}, ceiling={self.ceiling!r}"
            )

    def growth(self, updates: int) -> Growth:
        """Returns the penalties of a training of so many updates before the one that prunes.

        Raises:
            ValueError: If they do not get to their ceiling.
        """
        growth = self._growth(1.0)
        if self.step is None or (self.pick_ceiling is not None and self.pick_step is None):
            growth = self._growth(max(1.0, growth.updates / max(updates * _PART_TO_GROW, 1.0)))
        if growth.updates > updates:
            raise ValueError(
                f"Expected penalties that grow to their ceiling before `end`, for which they need {growth.updates} "
                f"updates: lower `every`, or raise `step`. Received: {updates} updates, step={growth.step:g}"
            )
        return growth

    def _growth(self, scale: float) -> Growth:
        step = _STEP * scale if self.step is None else self.step
        pick_step = _PICK_STEP * scale if self.pick_step is None else self.pick_step
        picks = 0 if self.pick_ceiling is None else math.ceil(self.pick_ceiling / pick_step - 1e-9)
        begin = picks * pick_step
        grows = max(1, math.floor((self.ceiling - begin) / step + 1e-9) + 1)
        return Growth(step, pick_step, picks, grows, self.recover)


@dataclasses.dataclass(frozen=True)
class Growth:
    """The penalties of a training, update by update.

    Attributes:
        step: How much they grow on weights that are to go.
        pick_step: How much they grow on all, before.
        picks: In how many updates they grow on all.
        grows: In how many they grow on those that are to go, after that.
        recover: λ of weights that stay, after `picks`, if there were any.
    """

    step: float
    pick_step: float
    picks: int
    grows: int
    recover: float

    @property
    def updates(self) -> int:
        """In how many updates they grow."""
        return self.picks + self.grows

    @property
    def choice(self) -> int:
        """The update at which the weights that are to go are chosen."""
        return max(self.picks - 1, 0)

    def penalties(self, index: int) -> tuple[float, float]:
        """Returns λ of weights that are to go, and of the others, from the update of this index on."""
        if index < self.picks:
            return (index + 1) * self.pick_step, (index + 1) * self.pick_step
        grown = min(index - self.picks + 1, self.grows) * self.step
        return self.picks * self.pick_step + grown, self.recover if self.picks else 0.0


@tf.custom_gradient
def _pull(value: tf.Tensor, strengths: tf.Tensor) -> Any:
    """Returns zero, so that losses stay what they are, whose gradient by the value is strengths⊙value."""

    def gradient(upstream):
        return upstream * strengths * value, None

    return tf.zeros((), value.dtype), gradient


class GrowingPenalty(BetweenUpdates):
    """Pulls the weights that are to go to zero.

    Which ones these are is remembered by the model and its files, and so is when λ has stopped to grow; else it follows
    from the time. Of groups it stops when the mean |θ| of the weights of a tensor that stay is a thousand times that of
    those that go, by a moving average over the updates: in all tensors (GReg-1), or in each by itself (GReg-2).

    Args:
        live: The model and its masks.
        penalty: How λ grows.
        choose: Returns which weights are to go, flat booleans.
        groups: Whether they go in groups, such as channels.
    """

    def __init__(self, live: LiveMasks, penalty: Penalty, choose: Callable[[], np.ndarray], groups: bool):
        self._live, self._penalty, self._choose, self._groups = live, penalty, choose, groups
        self._marks = live.remember("to_prune", tf.bool)
        if groups:
            self._ratios = live.remember("penalty_ratio", tf.float32, ())
            self._stops = live.remember("penalty_stop", tf.int32, ())  # 1 + the update at which λ stopped to grow, or 0
        self._to_go, self._others = live.scalars(len(live.sizes)), live.scalars(1)[0]
        self._growth: Growth | None = None
        self._last = 0
        self._is_chosen = False

    def begin(self, timetable: Timetable, done: int | None) -> None:
        self._last = len(timetable.steps) - 1
        self._growth = self._penalty.growth(self._last)
        for each, marks, to_go in zip(self._live, self._marks, self._to_go):
            each.penalize(self._penalty_of(marks, to_go))
        if done is None:
            self._forget()
            return
        self._is_chosen = done == self._last or bool(self.to_prune().any())
        if done > self._growth.choice and not self._is_chosen:
            warnings.warn(
                "Expected a model, or a file, that remembers which weights are to be pruned, since this training has "
                "begun before; they are chosen anew. To go on with the same, load the model from a .keras or "
                ".weights.h5 file, or a TensorFlow checkpoint. Received: none",
                stacklevel=2,
            )
        self._choose_at(done)
        self._pull_at(done)

    def _forget(self) -> None:
        self._assign(np.zeros(sum(self._live.sizes), bool))
        self._is_chosen = False
        for variable in [*self._ratios, *self._stops] if self._groups else []:
            variable.assign(0)

    def _penalty_of(self, marks: tf.Variable, to_go: tf.Variable) -> Callable[[tf.Tensor], tf.Tensor]:
        def penalty(value: tf.Tensor) -> tf.Tensor:
            strengths = (tf.cast(tf.convert_to_tensor(each), value.dtype) for each in (to_go, self._others))
            return _pull(value, tf.where(tf.convert_to_tensor(marks), *strengths))

        return penalty

    def to_prune(self) -> np.ndarray:
        """Returns which weights are to be pruned, flat booleans."""
        return np.concatenate([marks.numpy().ravel() for marks in self._marks])

    def move(self, index: int) -> None:
        self._choose_at(index)
        if self._groups and self._is_chosen and index < self._last:
            self._look(index)
        self._pull_at(index)

    def _choose_at(self, index: int) -> None:
        if index >= self._growth.choice and not self._is_chosen:
            self._assign(self._choose())
            self._is_chosen = True

    def _look(self, index: int) -> None:
        """Notes where penalties have grown enough."""
        enough = []
        for each, marks, ratio, stop in zip(self._live, self._marks, self._ratios, self._stops):
            if not bool(tf.reduce_any(marks)):
                continue  # nothing of it goes
            now = _ratio_of_sizes(tf.convert_to_tensor(each.variable), tf.cast(each.mask, bool), marks)
            before = float(ratio)
            ratio.assign(_OLD * before + (1 - _OLD) * now if before else now)
            enough.append((stop, float(ratio) >= _ENOUGH))
        each_by_itself = self._growth.picks > 0
        for stop, is_enough in enough:
            if not int(stop) and (is_enough if each_by_itself else all(found for _, found in enough)):
                stop.assign(index + 1)

    def _pull_at(self, index: int) -> None:
        for place, to_go in enumerate(self._to_go):
            stop = int(self._stops[place]) if self._groups else 0
            to_go.assign(self._penalties(min(index, stop - 1) if stop and index != self._last else index)[0])
        self._others.assign(self._penalties(index)[1])

    def _penalties(self, index: int) -> tuple[float, float]:
        return (0.0, 0.0) if index == self._last else self._growth.penalties(index)  # all are pruned then

    def _assign(self, to_prune: np.ndarray) -> None:
        for marks, values in zip(self._marks, split(to_prune, self._live.weights)):
            marks.assign(values)

    def end(self) -> None:
        for each in self._live:
            each.penalize(None)


def _ratio_of_sizes(value: tf.Tensor, kept: tf.Tensor, to_go: tf.Variable) -> tf.Tensor:
    """Returns the mean |θ| of weights that stay, as a multiple of that of weights that are to go; at most 1e30."""
    stays = tf.logical_and(kept, ~tf.convert_to_tensor(to_go))
    stay, go = (tf.cast(tf.abs(masked(value, marks)), tf.float32) for marks in (stays, to_go))
    stay, go = (
        tf.reduce_sum(size) / tf.maximum(tf.cast(tf.math.count_nonzero(marks), tf.float32), 1.0)
        for size, marks in ((stay, stays), (go, to_go))
    )
    return tf.minimum(stay / tf.maximum(go, 1e-30), 1e30)
