"""Which weights lie on a path from an input to an output: found out by sending a signal through the network.

Counting the weights of each layer does not tell: skip connections go around layers, and a kept weight that reads a dead
channel does as little as a pruned one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import array_variables, fixed_batch_size, input_specs, tf_variable
from force_tf.models.model_state import preserved_variables
from force_tf.models.output_channels import output_axes
from force_tf.models.paths import unwrapped
from force_tf.models.rebuild import rebuild
from force_tf.models.weights import PrunableWeight, variable_paths

# A signal so weak that activations are linear for it; one for networks that weaken it much; one for models that scale
# pixels themselves.
_SIGNALS = (1e-6, 1.0, 255.0)
# What is no signal: zero, and the middle of pixels that a model scales to [-1, 1].
_NOTHING = (0.0, 127.5)
# How loud a network may be without a signal, beside how loud it is with one: rounding.
_SILENT = 1e-4
# Gradients far above the smallest number of float32, however many weights they come through.
_OUTPUT_GRADIENT = 1e15


class NoPathsError(ValueError):
    """A model in which paths cannot be followed."""


class LivePaths:
    """The paths of a network, for any masks of its weights.

    A weight w is on a path, or live, if ∂R/∂w ≠ 0, with R the sum of the outputs of the linearised network: kept
    weights are positive, offsets zero, statistics those that change nothing, and the input so weak that activations
    are linear. Among positive weights nothing cancels. They are drawn at random, so that normalizations over channels
    are followed too, and every output channel averages what it reads, so that no signal vanishes in a deep network.

    Args:
        model: A built model of either Keras. It comes back as it was after every call.
        weights: The prunable weights among which to look.
        batches: `Batches` that tell the shapes of the inputs where the model does not, or None.

    Raises:
        NoPathsError: If the sizes of the inputs are not known.
    """

    def __init__(self, model: Any, weights: Sequence[PrunableWeight], batches: Any = None):
        self._model, self._weights = model, list(weights)
        try:
            self._specs = input_specs(model, batches)
        except ValueError as error:
            raise NoPathsError(f"Expected a model whose paths can be followed. {error}") from None
        random = np.random.default_rng(0)
        self._others = _plain_values(model, weights, random)
        count = fixed_batch_size(model) or 1
        self._rows = [_signal(spec, count, random) for spec in tf.nest.flatten(self._specs)]
        self._strength = _SIGNALS[0]
        self._is_checked = False

    def check(self) -> None:
        """Finds a signal that comes through every weight tensor without masks.

        Raises:
            NoPathsError: If there is none, so that paths cannot be followed.
        """
        if self._is_checked:
            return
        dense = [np.ones(weight.shape, bool) for weight in self._weights]
        dark: list[str] = []
        for self._strength in _SIGNALS:
            dark = self._dark(dense, self.reached(dense))
            if not dark:
                self._check_silence(dense)
                self._is_checked = True
                return
        raise NoPathsError(
            "Expected a model whose paths can be followed by gradients, without masks through every weight tensor. "
            f"Received: {self._model.name!r}, where nothing comes through {', '.join(dark)}"
        )

    def _check_silence(self, masks: Sequence[np.ndarray]) -> None:
        """Raises if there is an output without an input: who reads units that speak by themselves cannot be told.

        Raises:
            NoPathsError: If no input silences the network.
        """
        if not any(row.dtype.is_floating for row in self._rows):
            return  # tokens cannot be silent
        with self._linearised(masks):
            loudness = [_loudness(self._outputs(self._strength))]
            loudness += [_loudness(self._outputs(0.0, offset)) for offset in _NOTHING]
        if min(loudness[1:]) > _SILENT * loudness[0]:
            raise NoPathsError(
                "Expected a model whose paths can be followed by gradients, in which units without an input are zero. "
                f"Received: {self._model.name!r}, with activations such as sigmoid, or embeddings of positions, that "
                "are not"
            )

    def live(self, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns which of the kept weights lie on a path.

        Args:
            masks: One array of booleans per weight, of its shape.

        Raises:
            NoPathsError: If paths cannot be followed, see `check`.
        """
        reached = self.reached(masks)
        if self._dark(masks, reached) and not self._is_checked:
            self.check()  # is it the masks, or the signal?
            reached = self.reached(masks)
        if not self._is_checked:
            self._check_silence(masks)
        return [mask & reach for mask, reach in zip(masks, reached)]

    def _dark(self, masks: Sequence[np.ndarray], reached: Sequence[np.ndarray]) -> list[str]:
        """Returns the paths of the tensors that keep weights, of which none is reached."""
        each = zip(self._weights, masks, reached)
        return [weight.path for weight, mask, reach in each if mask.any() and not (mask & reach).any()]

    def reached(self, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns which weights lie on a path, or would if they were kept: ∂R/∂w ≠ 0.

        Args:
            masks: One array of booleans per weight, of its shape.

        Returns:
            Booleans of the same shapes. A kept weight is live if it is reached. A pruned weight that is reached would
            be live too; it lies between units that a signal comes through already.
        """
        variables = [tf_variable(weight.variable) for weight in self._weights]
        with self._linearised(masks), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            outputs = self._outputs(self._strength)
        ones = [tf.fill(tf.shape(output), tf.cast(_OUTPUT_GRADIENT, output.dtype)) for output in outputs]
        gradients = tape.gradient(outputs, variables, ones, unconnected_gradients="zero")
        for place, gradient in enumerate(gradients):  # each gives way to its marks
            gradients[place] = np.asarray(tf.convert_to_tensor(gradient)) != 0
        return gradients

    @contextlib.contextmanager
    def _linearised(self, masks: Sequence[np.ndarray]) -> Iterator[None]:
        with preserved_variables(self._model):
            for variable, value in self._others:
                variable.assign(value)
            for place, (weight, mask) in enumerate(zip(self._weights, masks)):
                # Drawn anew every time, one tensor after another: all of them would be a copy of the weights.
                drawn = _positive(np.random.default_rng([0, place]), weight.shape)
                np.multiply(drawn, mask, out=drawn)
                weight.variable.assign(_averaging(drawn, output_axes(weight.layers[-1], weight.attribute)))
            yield

    def _outputs(self, strength: float, offset: float = 0.0) -> list[tf.Tensor]:
        """Returns the outputs for a signal, as logits where they are probabilities."""
        rows = [row * strength + offset if row.dtype.is_floating else row for row in self._rows]
        outputs = self._model(tf.nest.pack_sequence_as(self._specs, rows), training=False)
        return [keras_internals.logits(output) for output in tf.nest.flatten(outputs) if output.dtype.is_floating]


def count_live(model: Any, weights: Sequence[PrunableWeight], masks: Sequence[np.ndarray], batches: Any = None) -> int:
    """Returns how many of the kept weights of a model lie on a path from an input to an output.

    Args:
        model: A built model of either Keras, without masks; it comes back as it was.
        weights: Its prunable weights.
        masks: One array of booleans per weight, of its shape.
        batches: See `LivePaths`.

    Raises:
        NoPathsError: If paths cannot be followed.
    """
    return sum(int(np.count_nonzero(live)) for live in LivePaths(model, weights, batches).live(masks))


def plain_model(model: Any) -> Any:
    """Returns a model without its masks: itself if it has none, else a copy.

    Raises:
        NoPathsError: If Keras cannot copy it.
    """
    if all(unwrapped(layer) is layer for layer in keras_internals.inner_layers(model)):
        return model
    try:
        return rebuild(model, original=unwrapped)
    except ValueError as error:
        raise NoPathsError(
            f"Expected a model without masks, or one that can be copied ({error}); call `force_tf.strip_pruning` "
            f"first. Received: {model.name!r}"
        ) from None


def _loudness(outputs: Sequence[tf.Tensor]) -> float:
    return max((float(tf.reduce_max(tf.abs(output))) for output in outputs), default=0.0)


def _positive(random: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return random.random(shape, np.float32) + np.float32(0.5)


def _averaging(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Scales weights so that those of every output sum to 1, where there are any, in place, and returns them.

    Args:
        values: The weights; positive, or zero.
        axes: The axes of the outputs, counted from the end.
    """
    others = tuple(axis for axis in range(values.ndim) if axis - values.ndim not in axes)
    sums = values.sum(axis=others, keepdims=True) if others else values
    return np.divide(values, np.where(sums > 0, sums, 1), out=values)


def _plain_values(model: Any, weights: Sequence[PrunableWeight], random: np.random.Generator) -> list[tuple[Any, Any]]:
    """Returns values of the variables that are not to be pruned, with which they let every signal through."""
    prunable = {id(weight.variable) for weight in weights}
    paths = variable_paths(model)
    found = []
    for variable in array_variables(model):
        if id(variable) in prunable or not tf.as_dtype(variable.dtype).is_floating:
            continue
        name, shape = paths[id(variable)].rpartition("/")[-1], tuple(variable.shape)
        if any(part in name for part in ("bias", "beta", "mean")):
            value = np.zeros(shape, np.float32)
        elif len(shape) < 2:
            value = np.ones(shape, np.float32)
        else:
            value = _averaging(_positive(random, shape), (-1,))
        found.append((variable, value))
    return found


def _signal(spec: tf.TensorSpec, count: int, random: np.random.Generator) -> tf.Tensor:
    """Returns rows of positive numbers; of integers and strings, what every table knows."""
    shape = [count, *spec.shape[1:]]
    if spec.dtype == tf.string:
        return tf.fill(shape, "1")
    return tf.cast(_positive(random, shape) if spec.dtype.is_floating else np.ones(shape), spec.dtype)
