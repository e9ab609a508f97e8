"""Layers that make new channels of weighted sums: dense layers, convolutions and embeddings."""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

from force_tf.channels.rules.base import PINNED, ChannelRule, Cut, channels, is_elementwise, labels
from force_tf.models.layer_kinds import is_kind
from force_tf.models.weights import weight_variable


class Table(ChannelRule):
    """Embedding: its outputs are columns of a table."""

    known = is_sized = True
    has_input_channels = False  # tokens have none
    readers = ("embeddings",)

    def constants(self, inputs):
        dead = ~self.alive("embeddings").any(axis=0)
        return [np.where(dead, 0.0, np.nan)]

    def ties(self):
        return [], [labels(channels(self.output_shapes[0]))]

    def places(self, path):
        return tuple(self.ties()[1])

    def cut(self, inputs, outputs, constants):
        (kept,) = outputs
        masks = {name: mask[:, kept] for name, mask in (self.masks or {}).items()}
        values = self.stored("embeddings")[:, kept]
        return Cut({"output_dim": int(kept.sum())}, {"embeddings": values}, masks)


class Affine(ChannelRule):
    """Dense layers and convolutions: every output is a weighted sum over inputs.

    A constant input goes into the bias. Where the borders of a padded convolution make that inexact, the inputs that
    are constant and not zero become one: the largest, with the weights of all in the proportions of their values.

    An activation that may look at all outputs at once, such as softmax, keeps all of them.
    """

    known = is_sized = True
    readers = ("kernel",)

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        self.transposed = any(is_kind(layer, f"Conv{n}DTranspose") for n in "123")
        self.units = "units" if hasattr(layer, "units") else "filters"
        self.mixes = not is_elementwise(layer.activation)

    @classmethod
    def fits(cls, layer, shapes):
        count = layer.units if hasattr(layer, "units") else layer.filters
        return getattr(layer, "groups", 1) == 1 and shapes[1][0][-1] == count

    @functools.cached_property
    def reach(self) -> np.ndarray:
        """Which inputs reach which outputs: (inputs, outputs)."""
        return self._matrix(self.alive("kernel")).any(axis=0)

    def ties(self):
        inputs, count = labels(channels(self.input_shapes[0])), channels(self.output_shapes[0])
        return [inputs], [np.full(count, PINNED) if self.mixes else labels(count, after=inputs)]

    def places(self, path):
        (inputs,), (outputs,) = self.ties()
        return (outputs[:, np.newaxis], inputs) if self.transposed else (outputs, inputs[:, np.newaxis])

    def constants(self, inputs):
        (values,) = inputs
        known = ~np.isnan(values)
        constant = ~(self.reach[~known].any(axis=0) | self.reach[self._inexact(values)].any(axis=0))
        sums = self._folded(values) + self._bias()
        outputs = self.layer.activation(tf.constant(sums.reshape(1, -1)))
        constant &= constant.all() | (not self.mixes)
        return [np.where(constant, np.asarray(outputs).ravel(), np.nan)]

    def mark_needed(self, inputs, outputs, constants):
        outputs[0] |= self.mixes
        needed = self.reach[:, outputs[0]].any(axis=1)
        inexact = needed & self._inexact(constants[0])
        inputs[0] |= needed & np.isnan(constants[0])
        if inexact.any():
            inputs[0][_representative(constants[0])] = True

    def cut(self, inputs, outputs, constants):
        (rows,), (columns,), (values,) = inputs, outputs, constants
        kernel = self._matrix(self.stored("kernel"))
        mask = None if not self.masks else self._matrix(self.masks["kernel"])
        merged = np.flatnonzero(self._inexact(values) & ~rows)
        if merged.size:
            kernel, mask = kernel.astype("float64"), None if mask is None else mask.copy()
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
        return kernel.reshape(-1, *kernel.shape[-2:])

    def _unmatrix(self, matrix: np.ndarray) -> np.ndarray:
        matrix = matrix.swapaxes(-1, -2) if self.transposed else matrix
        return matrix.reshape(*self._window(), *matrix.shape[-2:])

    def _bias(self) -> np.ndarray:
        return self.value("bias") if self.layer.use_bias else np.zeros(self.reach.shape[1])

    def _inexact(self, values: np.ndarray) -> np.ndarray:
        """Which constants a bias does not stand for: at the borders zeros take their place."""
        padded = self.transposed or (getattr(self.layer, "padding", "valid") != "valid" and self._positions() > 1)
        return ~np.isnan(values) & (values != 0) & padded

    def _positions(self) -> int:
        return math.prod(self._window())

    def _window(self) -> tuple[int, ...]:
        return tuple(weight_variable(self.layer, "kernel").shape[:-2])

    def _folded(self, values: np.ndarray) -> np.ndarray:
        """Returns what the constants that a bias can stand for add to each output."""
        exact = np.where(np.isnan(values) | self._inexact(values), 0.0, values)
        return exact @ self._sums if exact.any() else np.zeros(self.reach.shape[1])

    @functools.cached_property
    def _sums(self) -> np.ndarray:
        """The sum of the kernel over its positions: (inputs, outputs)."""
        kernel, alive = self._matrix(self.stored("kernel")), self._matrix(self.alive("kernel"))
        return kernel.sum(axis=0, where=alive, dtype="float64")


def _representative(values: np.ndarray) -> int:
    """The constant channel that stands for all others that are not zero."""
    return int(np.argmax(np.where(np.isnan(values), 0.0, np.abs(values))))


class Grouped(ChannelRule):
    """Grouped convolutions, whose groups have the same number of channels: one stays or goes as a whole."""

    known = is_sized = True
    readers = ("kernel",)

    @classmethod
    def fits(cls, layer, shapes):
        return is_elementwise(layer.activation)

    def constants(self, inputs):
        (values,) = inputs
        groups = self.layer.groups
        alive = self.alive("kernel")
        alive = alive.reshape(-1, alive.shape[-2], groups, alive.shape[-1] // groups).any(axis=0)
        # (inputs of a group, groups, outputs of a group); zeros reach nothing.
        reached = (alive & (values != 0).reshape(groups, -1).T[..., np.newaxis]).any(axis=0).ravel()
        bias = self.value("bias") if self.layer.use_bias else np.zeros(reached.size)
        outputs = self.layer.activation(tf.constant(bias.reshape(1, -1)))
        return [np.where(reached, np.nan, np.asarray(outputs).ravel())]

    def ties(self):
        groups = labels(self.layer.groups)
        sizes = (channels(shapes[0]) for shapes in (self.input_shapes, self.output_shapes))
        return tuple([np.repeat(groups, size // groups.size)] for size in sizes)

    def places(self, path):
        return tuple(self.ties()[1])

    def cut(self, inputs, outputs, constants):
        (columns,) = outputs
        values = {"kernel": self.stored("kernel")[..., columns]}
        if self.layer.use_bias:
            values["bias"] = self.stored("bias")[columns]
        masks = {name: mask[..., columns] for name, mask in (self.masks or {}).items()}
        groups = int(columns.reshape(self.layer.groups, -1).any(axis=1).sum())
        return Cut({"filters": int(columns.sum()), "groups": groups}, values, masks)


class Depthwise(ChannelRule):
    """Depthwise convolutions: an input channel becomes `depth_multiplier` output channels."""

    known = is_sized = True

    @classmethod
    def fits(cls, layer, shapes):
        return is_elementwise(layer.activation)

    def __init__(self, layer, masks, shapes):
        super().__init__(layer, masks, shapes)
        self.multiplier = weight_variable(layer, "kernel").shape[-1]

    def constants(self, inputs):
        (values,) = inputs
        values = np.repeat(values, self.multiplier)
        kernel = (self.value("kernel") * self.alive("kernel")).reshape(-1, values.size)
        reached = self.alive("kernel").reshape(-1, values.size).any(axis=0)
        padded = self.layer.padding != "valid" and len(kernel) > 1
        constant = ~reached | (values == 0) | (~np.isnan(values) & (not padded))
        bias = self.value("bias") if self.layer.use_bias else 0.0
        sums = np.where(reached & ~np.isnan(values), values, 0.0) * kernel.sum(axis=0) + bias
        outputs = self.layer.activation(tf.constant(np.broadcast_to(sums, values.shape).reshape(1, -1)))
        return [np.where(constant, np.asarray(outputs).ravel(), np.nan)]

    def ties(self):
        own = labels(channels(self.input_shapes[0]))
        return [own], [np.repeat(own, self.multiplier)]

    def places(self, path):
        return (self.ties()[0][0][:, np.newaxis],)

    def cut(self, inputs, outputs, constants):
        (kept,), (columns,) = inputs, outputs
        values = {"kernel": self.stored("kernel")[..., kept, :]}
        if self.layer.use_bias:
            values["bias"] = self.stored("bias")[columns]
        masks = {name: mask[..., kept, :] for name, mask in (self.masks or {}).items()}
        return Cut({}, values, masks)


class Separable(ChannelRule):
    """A depthwise convolution and a pointwise one."""

    known = is_sized = True
    readers = ("pointwise_kernel",)

    @classmethod
    def fits(cls, layer, shapes):
        return is_elementwise(layer.activation)

    @functools.cached_property
    def reach(self) -> np.ndarray:
        """Which inputs reach which outputs: (inputs, outputs)."""
        depthwise = self.alive("depthwise_kernel")
        depthwise = depthwise.reshape(-1, math.prod(depthwise.shape[-2:])).any(axis=0)
        pointwise = self.alive("pointwise_kernel").reshape(depthwise.size, -1)
        reach = depthwise[:, np.newaxis] & pointwise
        return reach.reshape(-1, self.multiplier, reach.shape[-1]).any(axis=1)

    @property
    def multiplier(self) -> int:
        return self.layer.depth_multiplier

    def ties(self):
        inputs = labels(channels(self.input_shapes[0]))
        return [inputs], [labels(channels(self.output_shapes[0]), after=inputs)]

    def places(self, path):
        (inputs,), (outputs,) = self.ties()
        if path == "depthwise_kernel":
            return (inputs[:, np.newaxis],)
        return outputs, np.repeat(inputs, self.multiplier)[:, np.newaxis]

    def constants(self, inputs):
        (values,) = inputs
        constant = ~self.reach[values != 0].any(axis=0)  # also of those that are not constant
        bias = self.value("bias") if self.layer.use_bias else np.zeros(self.reach.shape[1])
        outputs = self.layer.activation(tf.constant(bias.reshape(1, -1)))
        return [np.where(constant, np.asarray(outputs).ravel(), np.nan)]

    def mark_needed(self, inputs, outputs, constants):
        inputs[0] |= self.reach[:, outputs[0]].any(axis=1) & (constants[0] != 0)

    def cut(self, inputs, outputs, constants):
        (rows,), (columns,) = inputs, outputs
        inner = np.repeat(rows, self.multiplier)

        def cut(path, value):
            return value[..., rows, :] if path == "depthwise_kernel" else value[..., inner, :][..., columns]

        values = {name: cut(name, self.stored(name)) for name in ("depthwise_kernel", "pointwise_kernel")}
        if self.layer.use_bias:
            values["bias"] = self.stored("bias")[columns]
        masks = {name: cut(name, mask) for name, mask in (self.masks or {}).items()}
        return Cut({"filters": int(columns.sum())}, values, masks)
