"""What each kind of layer does to channels: which of its outputs are constant, which inputs it needs, how it is cut.

A channel is an index of a tensor's last axis. It is constant if its value is the same for every input of the model and
at every position. Constants are arrays with a number for each channel, NaN where the channel is not constant.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf import prunable
from force_tf.keras_models import is_layer
from force_tf.layers import Change


@dataclasses.dataclass(frozen=True)
class Cut(Change):
    """A layer's smaller form.

    Attributes:
        masks: New masks of its masked weights, by the names of their attributes.
    """

    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Rule:
    """What is known of a layer of no known kind: nothing, so that it keeps all its channels.

    Args:
        layer: The layer, without its wrapper.
        masks: The masks of its weights, by attribute; None for a model that is not wrapped.
        shapes: The shapes of the inputs and of the outputs of its first call.
    """

    #: Whether the rule knows the layer.
    known = False

    def __init__(self, layer: Any, masks: dict[str, np.ndarray] | None, shapes: tuple[Sequence, Sequence]):
        self.layer, self.masks = layer, masks
        self.input_shapes, self.output_shapes = shapes

    def constants(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the constants of each output, given those of each input."""
        return [np.full(channels(shape), np.nan) for shape in self.output_shapes]

    def keep(self, inputs: list[np.ndarray], outputs: list[np.ndarray], constants: Sequence[np.ndarray]) -> None:
        """Marks, in place, the channels of inputs and outputs that must stay, given those that are marked already."""
        for kept in (*inputs, *outputs):
            kept[:] = True

    def cut(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], constants: Sequence[np.ndarray]
    ) -> Cut | None:
        """Returns the layer for the channels kept of its inputs and outputs; None if it stays as it is."""
        return None

    def alive(self, attribute: str) -> np.ndarray:
        """Returns which weights may be other than zero, now or after training."""
        values = value_of(self.layer, attribute)
        if self.masks is None:
            return values != 0
        return self.masks.get(attribute, np.ones(values.shape, bool))


def channels(shape: Sequence[int | None]) -> int:
    """Returns the number of channels of a tensor."""
    return shape[-1] if len(shape) > 1 and shape[-1] else 1


def value_of(layer: Any, attribute: str) -> np.ndarray:
    """Returns the value of a layer's weight in float64."""
    return np.asarray(prunable.weight_variable(layer, attribute), "float64")


class Channelwise(Rule):
    """Layers that treat each channel by itself, and need their inputs where their outputs are needed."""

    known = True

    def keep(self, inputs, outputs, constants):
        kept = np.logical_or.reduce([*inputs, *outputs])
        for each in (*inputs, *outputs):
            each[:] = kept

    def cut(self, inputs, outputs, constants):
        (kept,) = inputs[:1]
        values = {}
        for attribute in self.weights():
            if prunable.weight_variable(self.layer, attribute) is not None:
                values[attribute] = value_of(self.layer, attribute)[..., kept]
        return Cut({}, values) if values else None

    def weights(self) -> tuple[str, ...]:
        """The attributes of weights with a number for each channel."""
        return ()


class Elementwise(Channelwise):
    """Layers whose output at a position depends on the input there alone, so that the layer itself tells constants."""

    def constants(self, inputs):
        # Other numbers than zero for what is not constant: some functions are not defined at zero.
        filled = [np.where(np.isnan(values), 0.5, values) for values in inputs]
        arguments = [
            tf.constant(values.reshape([1] * (len(shape) - 1) + [-1]), self._dtype())
            for values, shape in zip(filled, self.input_shapes)
        ]
        outputs = self.evaluate(arguments)
        outputs = np.asarray(tf.cast(outputs, tf.float64)).ravel()
        unknown = np.logical_or.reduce([np.isnan(values) for values in inputs])
        return [np.where(unknown, np.nan, outputs)]

    def evaluate(self, arguments: list[tf.Tensor]) -> tf.Tensor:
        if len(arguments) > 1 and is_layer(self.layer):
            return self.layer(arguments)
        return self.layer(*arguments)

    def _dtype(self) -> str:
        return getattr(self.layer, "compute_dtype", None) or "float64"


class Normalized(Elementwise):
    """BatchNormalization in inference mode: an affine function of each channel."""

    def weights(self):
        return ("gamma", "beta", "moving_mean", "moving_variance")

    def evaluate(self, arguments):
        return self.layer(arguments[0], training=False)


class ParametricRelu(Elementwise):
    """PReLU, whose slopes may be shared by all positions."""

    def weights(self):
        return ("alpha",)

    def constants(self, inputs):
        shared = all(size == 1 for size in self.layer.alpha.shape[:-1])
        if not shared:  # another slope at every position
            return [np.where(inputs[0] >= 0, inputs[0], np.nan)]
        return super().constants(inputs)


class Passing(Channelwise):
    """Layers that leave a constant as it is: pooling, cropping, dropout, copying."""

    def constants(self, inputs):
        return [inputs[0].copy() for _ in self.output_shapes]


class Padding(Channelwise):
    """Zeros around the positions, of which only the constant zero stays constant."""

    def constants(self, inputs):
        return [np.where(inputs[0] == 0, 0.0, np.nan)]


class Reshaped(Passing):
    """A reshape that leaves the last axis alone."""

    def cut(self, inputs, outputs, constants):
        return Cut({"target_shape": (*self.layer.target_shape[:-1], int(outputs[0].sum()))}, {})


class Flattened(Passing):
    """Every position's channels, one after another."""

    def constants(self, inputs):
        return [np.tile(inputs[0], self._positions())]

    def keep(self, inputs, outputs, constants):
        inputs[0] |= outputs[0].reshape(self._positions(), -1).any(axis=0)
        outputs[0][:] = np.tile(inputs[0], self._positions())

    def _positions(self) -> int:
        return channels(self.output_shapes[0]) // channels(self.input_shapes[0])


class Merge(Elementwise):
    """Sums, products and the like of tensors; one with a single channel is spread over all."""

    def constants(self, inputs):
        width = channels(self.output_shapes[0])
        spread = [np.broadcast_to(values, width) for values in inputs]
        outputs = super().constants(spread)
        if type(self.layer).__name__ == "Multiply":
            outputs[0][np.logical_or.reduce([values == 0 for values in spread])] = 0.0
        return outputs

    def keep(self, inputs, outputs, constants):
        wide = [kept for kept in inputs if kept.size == outputs[0].size]
        super().keep(wide, outputs, constants)
        for kept in inputs:
            if kept.size != outputs[0].size:
                kept[:] = True

    def cut(self, inputs, outputs, constants):
        return None


class Concatenated(Rule):
    """Channels of several tensors, one after another."""

    known = True

    def constants(self, inputs):
        return [np.concatenate(inputs)]

    def keep(self, inputs, outputs, constants):
        start = 0
        for kept in inputs:
            part = outputs[0][start : start + kept.size]
            kept |= part
            part |= kept
            start += kept.size


class Table(Rule):
    """Embedding: its outputs are columns of a table."""

    known = True

    def constants(self, inputs):
        dead = ~self.alive("embeddings").any(axis=0)
        return [np.where(dead, 0.0, np.nan)]

    def keep(self, inputs, outputs, constants):
        inputs[0][:] = True

    def cut(self, inputs, outputs, constants):
        (kept,) = outputs
        masks = {name: mask[:, kept] for name, mask in (self.masks or {}).items()}
        values = value_of(self.layer, "embeddings")[:, kept]
        return Cut({"output_dim": int(kept.sum())}, {"embeddings": values}, masks)


class Affine(Rule):
    """Dense layers and convolutions: every output is a weighted sum over inputs.

    A constant input goes into the bias. Where the borders of a padded convolution make that inexact, the inputs that
    are constant and not zero become one: the largest, with the weights of all in the proportions of their values.
    """

    known = True

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        self.transposed = "Transpose" in type(layer).__name__
        self.units = "units" if hasattr(layer, "units") else "filters"
        #: Which inputs reach which outputs: (inputs, outputs).
        self.reach = self._matrix(self.alive("kernel")).any(axis=0)

    def constants(self, inputs):
        (values,) = inputs
        known = ~np.isnan(values)
        constant = ~(self.reach[~known].any(axis=0) | self.reach[self._inexact(values)].any(axis=0))
        sums = self._folded(values) + self._bias()
        outputs = self.layer.activation(tf.constant(sums.reshape(1, -1)))
        return [np.where(constant, np.asarray(outputs).ravel(), np.nan)]

    def keep(self, inputs, outputs, constants):
        needed = self.reach[:, outputs[0]].any(axis=1)
        inexact = needed & self._inexact(constants[0])
        inputs[0] |= needed & np.isnan(constants[0])
        if inexact.any():
            inputs[0][_representative(constants[0])] = True

    def cut(self, inputs, outputs, constants):
        (rows,), (columns,), (values,) = inputs, outputs, constants
        kernel = self._matrix(value_of(self.layer, "kernel"))
        mask = None if not self.masks else self._matrix(self.masks["kernel"])
        merged = np.flatnonzero(self._inexact(values) & ~rows)
        if merged.size:
            chosen = _representative(values)
            kernel[:, chosen] += np.tensordot(values[merged] / values[chosen], kernel[:, merged], (0, 1))
            if mask is not None:
                mask[:, chosen] |= mask[:, merged].any(axis=1)
        bias = self._bias() + self._folded(np.where(rows, np.nan, values))
        changes = {self.units: int(columns.sum())}
        new = {"kernel": self._unmatrix(kernel[:, rows][..., columns])}
        if self.layer.use_bias or bias[columns].any():
            changes["use_bias"] = True
            new["bias"] = bias[columns]
        masks = {} if mask is None else {"kernel": self._unmatrix(mask[:, rows][..., columns])}
        return Cut(changes, new, masks)

    def _matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel as (positions, inputs, outputs)."""
        kernel = kernel.swapaxes(-1, -2) if self.transposed else kernel
        return kernel.reshape(-1, *kernel.shape[-2:]).copy()

    def _unmatrix(self, matrix: np.ndarray) -> np.ndarray:
        matrix = matrix.swapaxes(-1, -2) if self.transposed else matrix
        return matrix.reshape(*self._window(), *matrix.shape[-2:])

    def _bias(self) -> np.ndarray:
        return value_of(self.layer, "bias") if self.layer.use_bias else np.zeros(self.reach.shape[1])

    def _inexact(self, values: np.ndarray) -> np.ndarray:
        """Which constants a bias does not stand for: at the borders zeros take their place."""
        padded = self.transposed or (getattr(self.layer, "padding", "valid") != "valid" and self._positions() > 1)
        return ~np.isnan(values) & (values != 0) & padded

    def _positions(self) -> int:
        return math.prod(self._window())

    def _window(self) -> tuple[int, ...]:
        return tuple(prunable.weight_variable(self.layer, "kernel").shape[:-2])

    def _folded(self, values: np.ndarray) -> np.ndarray:
        """Returns what the constants that a bias can stand for add to each output."""
        kernel = self._matrix(value_of(self.layer, "kernel") * self.alive("kernel")).sum(axis=0)
        exact = np.where(np.isnan(values) | self._inexact(values), 0.0, values)
        return exact @ kernel


def _representative(values: np.ndarray) -> int:
    """The constant channel that stands for all others that are not zero."""
    return int(np.argmax(np.where(np.isnan(values), 0.0, np.abs(values))))


class Grouped(Rule):
    """Grouped convolutions, whose groups have the same number of channels: one stays or goes as a whole."""

    known = True

    def constants(self, inputs):
        (values,) = inputs
        groups = self.layer.groups
        alive = self.alive("kernel")
        alive = alive.reshape(-1, alive.shape[-2], groups, alive.shape[-1] // groups).any(axis=0)
        # (inputs of a group, groups, outputs of a group); zeros reach nothing.
        reached = (alive & (values != 0).reshape(groups, -1).T[..., np.newaxis]).any(axis=0).ravel()
        bias = value_of(self.layer, "bias") if self.layer.use_bias else np.zeros(reached.size)
        outputs = self.layer.activation(tf.constant(bias.reshape(1, -1)))
        return [np.where(reached, np.nan, np.asarray(outputs).ravel())]

    def keep(self, inputs, outputs, constants):
        groups = self.layer.groups
        kept = inputs[0].reshape(groups, -1).any(axis=1) | outputs[0].reshape(groups, -1).any(axis=1)
        for each in (inputs[0], outputs[0]):
            each[:] = np.repeat(kept, each.size // groups)

    def cut(self, inputs, outputs, constants):
        (columns,) = outputs
        values = {"kernel": value_of(self.layer, "kernel")[..., columns]}
        if self.layer.use_bias:
            values["bias"] = value_of(self.layer, "bias")[columns]
        masks = {name: mask[..., columns] for name, mask in (self.masks or {}).items()}
        groups = int(columns.reshape(self.layer.groups, -1).any(axis=1).sum())
        return Cut({"filters": int(columns.sum()), "groups": groups}, values, masks)


class Depthwise(Rule):
    """Depthwise convolutions: an input channel becomes `depth_multiplier` output channels."""

    known = True

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        self.kernel = value_of(layer, "kernel")
        self.multiplier = self.kernel.shape[-1]

    def constants(self, inputs):
        (values,) = inputs
        values = np.repeat(values, self.multiplier)
        kernel = (self.kernel * self.alive("kernel")).reshape(-1, values.size)
        reached = self.alive("kernel").reshape(-1, values.size).any(axis=0)
        padded = self.layer.padding != "valid" and len(kernel) > 1
        constant = ~reached | (values == 0) | (~np.isnan(values) & (not padded))
        bias = value_of(self.layer, "bias") if self.layer.use_bias else 0.0
        sums = np.where(reached & ~np.isnan(values), values, 0.0) * kernel.sum(axis=0) + bias
        outputs = self.layer.activation(tf.constant(np.broadcast_to(sums, values.shape).reshape(1, -1)))
        return [np.where(constant, np.asarray(outputs).ravel(), np.nan)]

    def keep(self, inputs, outputs, constants):
        inputs[0] |= outputs[0].reshape(-1, self.multiplier).any(axis=1)
        outputs[0][:] = np.repeat(inputs[0], self.multiplier)

    def cut(self, inputs, outputs, constants):
        (kept,), (columns,) = inputs, outputs
        values = {"kernel": self.kernel[..., kept, :]}
        if self.layer.use_bias:
            values["bias"] = value_of(self.layer, "bias")[columns]
        masks = {name: mask[..., kept, :] for name, mask in (self.masks or {}).items()}
        return Cut({}, values, masks)


class Separable(Rule):
    """A depthwise convolution and a pointwise one."""

    known = True

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        depthwise = self.alive("depthwise_kernel")
        inputs, multiplier = depthwise.shape[-2:]
        depthwise = depthwise.reshape(-1, inputs * multiplier).any(axis=0)
        pointwise = self.alive("pointwise_kernel").reshape(inputs * multiplier, -1)
        #: Which inputs reach which outputs: (inputs, outputs).
        self.reach = (depthwise[:, np.newaxis] & pointwise).reshape(inputs, multiplier, -1).any(axis=1)
        self.multiplier = multiplier

    def constants(self, inputs):
        (values,) = inputs
        constant = ~self.reach[values != 0].any(axis=0)  # also of those that are not constant
        bias = value_of(self.layer, "bias") if self.layer.use_bias else np.zeros(self.reach.shape[1])
        outputs = self.layer.activation(tf.constant(bias.reshape(1, -1)))
        return [np.where(constant, np.asarray(outputs).ravel(), np.nan)]

    def keep(self, inputs, outputs, constants):
        inputs[0] |= self.reach[:, outputs[0]].any(axis=1) & (constants[0] != 0)

    def cut(self, inputs, outputs, constants):
        (rows,), (columns,) = inputs, outputs
        inner = np.repeat(rows, self.multiplier)

        def cut(attribute, value):
            return value[..., rows, :] if attribute == "depthwise_kernel" else value[..., inner, :][..., columns]

        values = {name: cut(name, value_of(self.layer, name)) for name in ("depthwise_kernel", "pointwise_kernel")}
        if self.layer.use_bias:
            values["bias"] = value_of(self.layer, "bias")[columns]
        masks = {name: cut(name, mask) for name, mask in (self.masks or {}).items()}
        return Cut({"filters": int(columns.sum())}, values, masks)
