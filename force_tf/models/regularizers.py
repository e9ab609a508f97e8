"""Regularizers of weights and activities, set aside while a loss without them is computed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import keras_of
from force_tf.support.interrupts import restoring


class ZeroRegularizers:
    """What stands in for regularizers: zeros, so that `losses` has as many entries as ever.

    Code of the user's may rely on that. And where a layer of tf_keras adds nothing, `losses` has what was left of the
    time when the model was made.

    Attributes:
        entries: How many entries of `losses` are such zeros, after the model was called.
    """

    def __init__(self):
        self.entries = 0

    def of_activities(self, activities: tf.Tensor) -> tf.Tensor:
        self.entries += 1  # each is called once, and added
        return _zero(activities)


def _zero(value: Any = None) -> tf.Tensor:
    dtype = tf.float32 if value is None else tf.as_dtype(value.dtype)
    return tf.zeros((), dtype if dtype.is_floating else tf.float32)


class _Zero(keras.regularizers.Regularizer):
    """A regularizer, as which Keras before 3.15 takes no mere function."""

    def __call__(self, x: Any) -> tf.Tensor:
        return _zero(x)


def without_regularizers(model: Any, stand_in: ZeroRegularizers) -> restoring:
    """Sets the regularizers of a model aside for a block, so that its `losses` hold what calls add by `add_loss`.

    In tf_keras losses that were added as functions, which depend on weights alone, count as regularizers too.

    Args:
        model: A Keras model.
        stand_in: What takes their place.

    Returns:
        The context manager of the block.
    """
    layers = list(keras_internals.inner_layers(model))
    active = [layer for layer in layers if _regularizes_activities(layer)]
    of_activities = [layer.activity_regularizer for layer in active]
    variables, functions = [], []
    if keras_of(model) is keras:
        variables = [variable for variable in model.trainable_variables if variable.regularizer is not None]
    else:
        functions = [keras_internals.function_losses(layer) for layer in layers]
    of_weights, added = [variable.regularizer for variable in variables], [list(each) for each in functions]

    def set_aside() -> None:
        stand_in.entries += len(variables) + sum(map(len, added))
        for layer in active:
            layer.activity_regularizer = stand_in.of_activities
        for variable in variables:
            variable.regularizer = _Zero()
        for losses in functions:
            losses[:] = [_zero] * len(losses)

    def put_back() -> None:
        for layer, regularizer in zip(active, of_activities):
            layer.activity_regularizer = regularizer
        for variable, regularizer in zip(variables, of_weights):
            variable.regularizer = regularizer
        for losses, before in zip(functions, added):
            losses[:] = before

    return restoring(put_back, set_aside)


def _regularizes_activities(layer: Any) -> bool:
    # The wrappers of tf_keras only show that of the layer inside them.
    shown = getattr(type(layer), "activity_regularizer", None)
    shown_only = isinstance(shown, property) and shown.fset is None
    return not shown_only and layer.activity_regularizer is not None
