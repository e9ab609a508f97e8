"""Layers that hand channels on: each by itself, several tensors to one, or each to several."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from force_tf.channels.rules.base import PINNED, ChannelRule, Cut, channels, is_elementwise, labels
from force_tf.models.keras_models import is_layer
from force_tf.models.layer_kinds import is_kind
from force_tf.models.weights import own_weights, weight_variable


class Channelwise(ChannelRule):
    """Layers that treat each channel by itself, and need their inputs where their outputs are needed."""

    known = True

    @property
    def is_sized(self):
        return bool(self.weights())

    def ties(self):
        own = labels(channels(self.output_shapes[0]))
        return [own] * len(self.input_shapes), [own] * len(self.output_shapes)

    def cut(self, inputs, outputs, constants):
        (kept,) = inputs[:1]
        values = {}
        for attribute in self.weights():
            if weight_variable(self.layer, attribute) is not None:
                values[attribute] = self.stored(attribute)[..., kept]
        masks = {name: mask[..., kept] for name, mask in (self.masks or {}).items() if name in values}
        return Cut({}, values, masks) if values else None

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


class Activated(Elementwise):
    """Activation, by a function that is known to look at one number at a time."""

    @classmethod
    def fits(cls, layer, shapes):
        return is_elementwise(layer.activation)


class Rescaled(Elementwise):
    """Rescaling by one number for all channels."""

    @classmethod
    def fits(cls, layer, shapes):
        return np.ndim(layer.scale) == np.ndim(layer.offset) == 0


class Normalized(Elementwise):
    """BatchNormalization in inference mode: an affine function of each channel."""

    @classmethod
    def fits(cls, layer, shapes):
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        return axis in (-1, len(shapes[0][0]) - 1)

    def weights(self):
        # The last three are those of tf_keras's `renorm`.
        moments = ("moving_mean", "moving_variance")
        return ("gamma", "beta", *moments, "moving_stddev", "renorm_mean", "renorm_stddev")

    def evaluate(self, arguments):
        return self.layer(arguments[0], training=False)


class Weighted(Elementwise):
    """Custom layers that were registered as elementwise, with or without weights."""

    def weights(self):
        size = channels(self.output_shapes[0])
        shapes = {name: tuple(variable.shape) for name, variable in own_weights(self.layer).items()}
        return tuple(name for name, shape in shapes.items() if shape[-1:] == (size,) and size > 1)

    def evaluate(self, arguments):
        return self.layer(arguments[0] if len(arguments) == 1 else arguments)


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


class Dropped(Passing):
    """Dropout whose shape of the noise, if it has one, does not say how many channels there are."""

    @classmethod
    def fits(cls, layer, shapes):
        return layer.noise_shape is None or layer.noise_shape[-1] in (None, 1)


class Padding(Channelwise):
    """Zeros around the positions, of which only the constant zero stays constant."""

    def constants(self, inputs):
        return [np.where(inputs[0] == 0, 0.0, np.nan)]


class Permuted(Passing):
    """Permute that leaves the last axis alone."""

    @classmethod
    def fits(cls, layer, shapes):
        return layer.dims[-1] == len(layer.dims)


class Reshaped(Passing):
    """A reshape that leaves the last axis alone."""

    @classmethod
    def fits(cls, layer, shapes):
        return len(shapes[1][0]) > 1 and shapes[1][0][-1] == shapes[0][0][-1] is not None

    @property
    def is_sized(self):
        return self.layer.target_shape[-1] != -1

    def cut(self, inputs, outputs, constants):
        if not self.is_sized:
            return None
        return Cut({"target_shape": (*self.layer.target_shape[:-1], int(outputs[0].sum()))}, {})


class Flattened(Passing):
    """Every position's channels, one after another."""

    @classmethod
    def fits(cls, layer, shapes):
        return None not in shapes[1][0][1:] and len(shapes[0][0]) > 1

    def constants(self, inputs):
        return [np.tile(inputs[0], self._positions())]

    def ties(self):
        own = labels(channels(self.input_shapes[0]))
        return [own], [np.tile(own, self._positions())]

    def _positions(self) -> int:
        return channels(self.output_shapes[0]) // channels(self.input_shapes[0])


class Merge(Elementwise):
    """Sums, products and the like of tensors; one with a single channel is spread over all."""

    @property
    def is_product(self) -> bool:
        """Whether a zero makes the output zero whatever the other inputs are."""
        return is_kind(self.layer, "Multiply")

    def constants(self, inputs):
        width = channels(self.output_shapes[0])
        spread = [np.broadcast_to(values, width) for values in inputs]
        outputs = super().constants(spread)
        if self.is_product:
            outputs[0][np.logical_or.reduce([values == 0 for values in spread])] = 0.0
        return outputs

    def ties(self):
        own = labels(channels(self.output_shapes[0]))
        sizes = map(channels, self.input_shapes)
        return [own if size == own.size else np.full(size, PINNED) for size in sizes], [own]

    def cut(self, inputs, outputs, constants):
        return None


class Concatenated(ChannelRule):
    """Channels of several tensors, one after another."""

    known = True

    @classmethod
    def fits(cls, layer, shapes):
        return layer.axis in (-1, len(shapes[0][0]) - 1)

    def constants(self, inputs):
        return [np.concatenate(inputs)]

    def ties(self):
        own = labels(channels(self.output_shapes[0]))
        ends = np.cumsum([channels(shape) for shape in self.input_shapes])
        return np.split(own, ends[:-1]), [own]
