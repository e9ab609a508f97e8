"""FlipOut's noise: every step adds chance to the gradients of kept weights, as large as these are themselves."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from force_tf.layers.masking import Forward, masked
from force_tf.models import keras_internals
from force_tf.training.between_updates import BetweenUpdates
from force_tf.training.live_masks import LiveMasks
from force_tf.training.timetable import Timetable


class GradientNoise(BetweenUpdates):
    """Adds λ·ξ·‖g‖₂/√N to the gradient g of each weight tensor, of N weights, in every step.

    ξ is drawn from a standard normal distribution for each weight and batch, by the seed and the optimizer's count. The
    gradient is that of the loss; pruned weights have none, and get no noise.

    Args:
        live: The model and its masks.
        scale: λ, positive.
        seed: A non-negative integer.
    """

    def __init__(self, live: LiveMasks, scale: float, seed: int):
        self._live, self._scale, self._seed = live, scale, seed

    def begin(self, timetable: Timetable, done: int | None) -> None:
        for index, each in enumerate(self._live):
            each.set_forward(self._forward(index, each))

    def end(self) -> None:
        for each in self._live:
            each.set_forward(None)

    def _forward(self, index: int, each: Any) -> Forward:
        optimizer = self._live.optimizer

        def forward(value: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            if not keras_internals.is_training_call(each.owner):
                return masked(value, mask)
            batch = tf.convert_to_tensor(keras_internals.batches_applied(optimizer))
            return _masked_with_noise(value, mask, self._scale, tf.random.fold_in((self._seed, index), batch))

        return forward


@tf.custom_gradient
def _masked_with_noise(value: tf.Tensor, mask: tf.Tensor, scale: tf.Tensor, seed: tf.Tensor) -> Any:
    """Returns value⊙mask, whose gradient, that of value⊙mask, has noise added to it where the mask is 1."""

    def gradient(upstream):
        kept = masked(upstream, mask)
        size = tf.cast(scale, kept.dtype) * tf.norm(kept) / tf.cast(tf.size(kept), kept.dtype) ** 0.5
        noise = tf.random.stateless_normal(tf.shape(kept), seed, dtype=kept.dtype)
        return kept + masked(size * noise, mask), None, None, None

    return masked(value, mask), gradient
