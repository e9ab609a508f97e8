"""Recurrent layers: units that read the inputs and, at the next time step, each other."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from force_tf.channels.rules.base import ChannelRule, Cut, channels, is_elementwise, labels
from force_tf.models.layer_kinds import copies_as
from force_tf.models.paths import walk_layers

# Which of the gates, that lie side by side in the weights, is the candidate of the new state.
_CANDIDATES = {"LSTM": 2, "GRU": 2, "SimpleRNN": 0}


class Recurrent(ChannelRule):
    """LSTM, GRU and SimpleRNN, whose state is zero before the first time step.

    A unit stays zero if its candidate does. No other number is the same at every step, the first among them. The
    constants among the inputs go into the bias.
    """

    known = is_sized = True

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        cell = next(path for path, chain in walk_layers(layer) if chain[-1] is layer.cell)
        self.readers = (f"{cell}/kernel", f"{cell}/recurrent_kernel")
        self.bias_path = f"{cell}/bias"
        self.units = layer.units

    @classmethod
    def fits(cls, layer, shapes):
        activations = [getattr(layer, name) for name in ("activation", "recurrent_activation") if hasattr(layer, name)]
        single = [len(each) for each in shapes] == [1, 1]
        return single and not (layer.stateful or layer.return_state) and all(map(is_elementwise, activations))

    def ties(self):
        inputs = labels(channels(self.input_shapes[0]))
        return [inputs], [labels(self.units, after=inputs)]

    def places(self, path):
        (inputs,), (outputs,) = self.ties()
        rows = inputs if path == self.readers[0] else outputs
        return np.tile(outputs, self._reach.shape[1]), rows[:, np.newaxis]

    def constants(self, inputs):
        return [np.where(self._zero(inputs[0]), 0.0, np.nan)]

    def mark_needed(self, inputs, outputs, constants):
        reads = self._recurrent_reach.any(axis=1) & ~self._zero(constants[0])[:, np.newaxis]
        needed = _closure(outputs[0], lambda units: reads[:, units].any(axis=1))
        outputs[0] |= needed
        inputs[0] |= self._reach.any(axis=1)[:, needed].any(axis=1) & np.isnan(constants[0])

    def cut(self, inputs, outputs, constants):
        (rows,), (kept,), (values,) = inputs, outputs, constants
        sides = dict(zip(self.readers, (rows, kept)))

        def cut(path, value):
            return self._by_gate(value)[sides[path]][..., kept].reshape(int(sides[path].sum()), -1)

        kernel = self._by_gate(self.value(self.readers[0])) * self._reach
        bias = self._bias()
        bias[0] += np.tensordot(np.where(rows | np.isnan(values), 0.0, values), kernel, 1)
        changes = {"units": int(kept.sum())}
        new = {path: cut(path, self.stored(path)) for path in self.readers}
        bias = bias[..., kept]
        if self.layer.use_bias or bias.any():
            changes["use_bias"] = True
            new[self.bias_path] = bias.reshape(len(bias), -1) if len(bias) > 1 else bias.ravel()
        masks = {path: cut(path, mask) for path, mask in (self.masks or {}).items()}
        return Cut(changes, new, masks)

    @functools.cached_property
    def _reach(self) -> np.ndarray:
        """Which inputs reach which gates of which units: (inputs, gates, units)."""
        return self._by_gate(self.alive(self.readers[0]))

    @functools.cached_property
    def _recurrent_reach(self) -> np.ndarray:
        """Which units reach which gates of which units: (units, gates, units)."""
        return self._by_gate(self.alive(self.readers[1]))

    def _by_gate(self, matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(len(matrix), -1, self.units)

    def _bias(self) -> np.ndarray:
        """Returns the bias as (1, gates, units), or (2, gates, units) where the state has one of its own."""
        count = 2 if getattr(self.layer, "reset_after", False) else 1
        if not self.layer.use_bias:
            return np.zeros((count, *self._reach.shape[1:]))
        return self._by_gate(self.value(self.bias_path).reshape(count, -1))

    def _zero(self, values: np.ndarray) -> np.ndarray:
        """Returns which units are zero at every step, given the constants of the inputs."""
        candidate = _CANDIDATES[copies_as(self.layer)]
        if np.any(self.layer.activation(tf.zeros((1, 1), tf.float64))):
            return np.zeros(self.units, bool)
        driven = self._reach[values != 0, candidate].any(axis=0) | (self._bias()[:, candidate] != 0).any(axis=0)
        reads = self._recurrent_reach[:, candidate]
        return ~_closure(driven, lambda units: reads[units].any(axis=0))


def _closure(units: np.ndarray, more: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns some units, with those that `more` adds to them until it adds none."""
    while True:
        found = units | more(units)
        if (found == units).all():
            return units
        units = found
