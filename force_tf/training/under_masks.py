"""Values that train under the masks: by the gradient of θ⊙m, or where they are drawn into a forward pass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from force_tf.layers.masking import Forward, masked, straight_through
from force_tf.models import keras_internals
from force_tf.support import arguments
from force_tf.training.between_updates import BetweenUpdates
from force_tf.training.live_masks import LiveMasks
from force_tf.training.timetable import Timetable


class StraightThrough(BetweenUpdates):
    """Lets values train under the masks by the gradient at θ⊙m. At the end they are zero.

    Args:
        live: The model and its masks.
    """

    def __init__(self, live: LiveMasks):
        self._live = live
        live.remember_under_masks()

    def begin(self, timetable: Timetable, done: int | None) -> None:
        self._live.make_dense([straight_through] * len(self._live.sizes))

    def end(self) -> None:
        self._live.make_dense(None)


@dataclasses.dataclass(frozen=True)
class Draws:
    """With what probability pruned weights take part in a forward pass of the training, each drawn by itself.

    Args:
        temperature: τ, the probability at the beginning, in [0, 1]. It falls to 0 at the end of pruning.
        anneal: How it falls: "cosine", τ·(1 + cos(π·t/T))/2, or "linear", τ·(1 − t/T).
        weighting: What a weight's probability is: "equal" for τ; "random" for τ·u, where u is uniform in [0, 1) and
            each weight's own for the whole training; "magnitude" for τ·|θ|/max|θ|, over its tensor.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of its range.

    References:
        - [Stochastic Subnetwork Annealing](https://arxiv.org/abs/2401.08830)
    """

    temperature: float = 0.5
    anneal: str = "cosine"
    weighting: str = "equal"

    def __post_init__(self):
        arguments.number("temperature", self.temperature, "[0, 1]")
        arguments.one_of("anneal", self.anneal, ("cosine", "linear"))
        arguments.one_of("weighting", self.weighting, ("equal", "random", "magnitude"))

    def temperature_at(self, part: tf.Tensor) -> tf.Tensor:
        """Returns τ after a part of the time, a float32 scalar from 0 to 1: 0 from 1 on."""
        part = tf.clip_by_value(part, 0.0, 1.0)
        left = (1 + tf.cos(math.pi * part)) / 2 if self.anneal == "cosine" else 1 - part
        return tf.where(part < 1, self.temperature * left, 0.0)


class RandomDraws(BetweenUpdates):
    """Draws pruned weights into the forward passes of the training, with less and less probability.

    A pass computes with θ⊙M, where M is 1 at kept weights and, at pruned ones, 1 with their probability, drawn anew for
    each batch by the seed and the optimizer's count. What is not drawn has no gradient. Calls that are not in training
    mode compute with θ⊙m, and at the end what is pruned is zero.

    Args:
        live: The model and its masks.
        draws: The probabilities.
        seed: A non-negative integer.
    """

    def __init__(self, live: LiveMasks, draws: Draws, seed: int):
        self._live, self._draws, self._seed = live, draws, seed
        live.remember_under_masks()

    def begin(self, timetable: Timetable, done: int | None) -> None:
        first, last = timetable.steps[0], timetable.steps[-1]
        self._live.make_dense([self._forward(i, each, first, last) for i, each in enumerate(self._live)])

    def end(self) -> None:
        self._live.make_dense(None)

    def _forward(self, index: int, each: Any, first: int, last: int) -> Forward:
        optimizer = self._live.optimizer

        def forward(value: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            if not keras_internals.is_training_call(each.owner):
                return masked(value, mask)
            step = tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.float32)
            temperature = self._draws.temperature_at((step - first) / (last - first))
            batch = tf.convert_to_tensor(keras_internals.batches_applied(optimizer))
            seed = tf.random.fold_in((self._seed, index), batch)
            drawn = tf.random.stateless_uniform(value.shape, seed) < self._probability(index, value, temperature)
            return masked(value, tf.logical_or(tf.cast(mask, bool), drawn))

        return forward

    def _probability(self, index: int, value: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
        if self._draws.weighting == "random":
            return temperature * tf.random.stateless_uniform(value.shape, (self._seed, -1 - index))
        if self._draws.weighting == "magnitude":
            size = tf.cast(tf.abs(tf.stop_gradient(value)), tf.float32)
            return temperature * tf.math.divide_no_nan(size, tf.reduce_max(size))
        return temperature
