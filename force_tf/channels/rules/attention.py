"""Attention: all channels of its inputs and outputs stay, but heads inside it go."""

from __future__ import annotations

import functools

import keras
import numpy as np

from force_tf.channels.rules.base import PINNED, ChannelRule, Cut, labels
from force_tf.models.keras_models import keras_of

_PROJECTIONS = ("query", "key", "value")
_OUTPUT = "attention_output"


class Attention(ChannelRule):
    """MultiHeadAttention, of which a head goes if the output does not read it, or if its value is constant.

    What attention makes of a constant value is that value, since its weights add up to one. So the head adds the same
    everywhere, which goes into the bias of the output.
    """

    known = is_sized = True
    has_input_channels = False
    has_inner_channels = True
    readers = tuple(f"{name}/kernel" for name in (*_PROJECTIONS, _OUTPUT))

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        self.config = layer.get_config()

    @classmethod
    def fits(cls, layer, shapes):
        inputs, outputs = shapes
        plain = not layer.get_config().get("use_gate")
        return plain and len(outputs) == 1 and all(len(shape) == 3 for shape in inputs[:2])

    def places(self, path):
        heads = labels(self.config["num_heads"])
        if path == f"{_OUTPUT}/kernel":
            return np.array(PINNED), heads.reshape(-1, *[1] * (self.stored(path).ndim - 1))
        return (heads[:, np.newaxis],)

    def constants(self, inputs):
        read = self.alive(f"{_OUTPUT}/kernel")
        if read.ndim != 3:  # outputs with several axes of their own
            return super().constants(inputs)
        reached = read[~self._constant].any(axis=(0, 1))
        bias = self.value(f"{_OUTPUT}/bias") if self.config["use_bias"] else 0.0
        return [np.where(reached, np.nan, self._added(self._constant) + bias)]

    def cut(self, inputs, outputs, constants):
        read = self.alive(f"{_OUTPUT}/kernel")
        gone = self._constant | ~read.reshape(len(read), -1).any(axis=1)
        gone[0] &= not gone.all()
        if not gone.any():
            return None

        def cut(path, value):
            return value[~gone] if path.startswith(_OUTPUT) else value[..., ~gone, :]

        new = {path: cut(path, self.stored(path)) for path in self.readers}
        if self.config["use_bias"]:
            new |= {f"{name}/bias": self.stored(f"{name}/bias")[~gone] for name in _PROJECTIONS}
            new[f"{_OUTPUT}/bias"] = self.value(f"{_OUTPUT}/bias") + self._added(gone)
        masks = {path: cut(path, mask) for path, mask in (self.masks or {}).items()}
        return Cut({"num_heads": int((~gone).sum())}, new, masks)

    @functools.cached_property
    def _constant(self) -> np.ndarray:
        """Which heads have the same value at every position."""
        dead = ~self.alive("value/kernel").any(axis=(0, 2))
        # With dropout, Keras 3 makes the weights zero, and not equal, of a query for which all keys are masked.
        exact = not (keras_of(self.layer) is keras and self.config["dropout"])
        return dead if exact else dead & ~self._value_bias().any(axis=1)

    def _value_bias(self) -> np.ndarray:
        """Returns the bias of the values: (heads, dimensions of a value)."""
        if self.config["use_bias"]:
            return self.value("value/bias")
        return np.zeros(self.alive("value/kernel").shape[1:])

    def _added(self, heads: np.ndarray) -> np.ndarray:
        """Returns what heads of constant value add to the output; those that it does not read add nothing."""
        kernel = self.value(f"{_OUTPUT}/kernel") * self.alive(f"{_OUTPUT}/kernel")
        return np.tensordot(self._value_bias()[heads], kernel[heads], 2)
