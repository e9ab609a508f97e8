"""Counts how often the signs of weights change, in every step of the optimizer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from force_tf.training.between_updates import BetweenUpdates
from force_tf.training.live_masks import LiveMasks
from force_tf.training.timetable import Timetable

_SIGNS = tf.float16  # the smallest type of numbers that TensorFlow makes variables of on several workers


class SignFlipCounter(BetweenUpdates):
    """Counts, of each kept weight, the steps after which its sign is another one than before.

    The counts are remembered by the model and its files; pruned weights have none. The signs follow from the weights.

    Args:
        live: The model and its masks.
    """

    NAME = "sign_flips"

    def __init__(self, live: LiveMasks):
        self._live = live
        self._counts = live.remember(self.NAME, tf.int32)
        self._signs = live.variables(_SIGNS)

    def begin(self, timetable: Timetable, done: int | None) -> None:
        for each, signs, count in zip(self._live, self._signs, self._counts):
            signs.assign(_signs(each.variable))
            each.observe(_observer(each.mask, signs, count))

    def end(self) -> None:
        for each in self._live:
            each.observe(None)


def _observer(mask: Any, before: tf.Variable, count: tf.Variable) -> Any:
    def observe(value: Any) -> None:
        now = _signs(value)
        flips = tf.cast(now != tf.convert_to_tensor(before), count.dtype)
        count.assign((tf.convert_to_tensor(count) + flips) * tf.cast(tf.convert_to_tensor(mask), count.dtype))
        before.assign(now)

    return observe


def _signs(value: Any) -> tf.Tensor:
    return tf.cast(tf.sign(tf.convert_to_tensor(value)), _SIGNS)
