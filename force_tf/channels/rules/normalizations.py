"""Normalizations with the statistics of each input: over groups of channels, over positions, over all channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf.channels.rules.base import ChannelRule, Cut, channels, labels
from force_tf.channels.rules.channelwise import Channelwise, Elementwise


class GroupNormalized(Elementwise):
    """GroupNormalization over the last axis, whose groups stay or go as a whole.

    A channel without scale is constant, and so is a group of which all channels are.
    """

    @classmethod
    def fits(cls, layer, shapes):
        return layer.axis in (-1, len(shapes[0][0]) - 1)

    def weights(self):
        return ("gamma", "beta")

    def ties(self):
        own = np.repeat(labels(self.layer.groups), channels(self.output_shapes[0]) // self.layer.groups)
        return [own], [own]

    def constants(self, inputs):
        unknown = np.isnan(inputs[0]).reshape(self.layer.groups, -1).any(axis=1)
        (found,) = super().constants(inputs)
        found[np.repeat(unknown, found.size // unknown.size)] = np.nan
        return [np.where(_scaled(self), found, _offset(self))]

    def cut(self, inputs, outputs, constants):
        found = super().cut(inputs, outputs, constants)
        groups = int(inputs[0].reshape(self.layer.groups, -1).any(axis=1).sum())
        return Cut({"groups": groups}, found.values if found else {})


class Positional(Channelwise):
    """LayerNormalization over other axes than the last: each channel by itself, with offsets of positions."""

    @classmethod
    def fits(cls, layer, shapes):
        return len(shapes[0][0]) - 1 not in _normalizes(layer, shapes) and not getattr(layer, "rms_scaling", False)

    def constants(self, inputs):
        offsets = np.unique(self.value("beta")) if self.layer.center else np.zeros(1)
        if offsets.size > 1:
            return super().constants(inputs)
        scaled = not self.layer.scale or self.alive("gamma").any()
        return [np.where(np.isnan(inputs[0]) & scaled, np.nan, offsets[0])]


class LayerNormalized(ChannelRule):
    """LayerNormalization over the channels, of which all stay; those without scale are constant."""

    @classmethod
    def fits(cls, layer, shapes):
        return _normalizes(layer, shapes) == {len(shapes[0][0]) - 1} and not getattr(layer, "rms_scaling", False)

    def constants(self, inputs):
        return [np.where(_scaled(self), np.nan, _offset(self))]


def _normalizes(layer: Any, shapes: tuple[Sequence, Sequence]) -> set[int]:
    """Returns the axes over which LayerNormalization computes, counted from the front."""
    axes = layer.axis if isinstance(layer.axis, Sequence) else [layer.axis]
    return {axis % len(shapes[0][0]) for axis in axes}


def _scaled(rule: ChannelRule) -> np.ndarray | bool:
    """Returns which channels have a scale other than zero."""
    return rule.alive("gamma") if rule.layer.scale else True


def _offset(rule: ChannelRule) -> np.ndarray | float:
    """Returns what is left of channels without scale."""
    return rule.value("beta") if rule.layer.center else 0.0
