"""Regularizers of weights and activities, set aside while a loss without them is computed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import keras_of
from force_tf.support.interrupts import restoring


class ZeroRegularizer:
    """Stands in for regularizers of activities: zero, whatever the activities are.

    A layer without any would not do: the `losses` of tf_keras then hold what was left from when the model was made.

    Attributes:
        calls: How often it was called, and hence how many entries of `losses` come from it.
    """

    def __init__(self):
        self.calls = 0

    def __call__(self, activities: tf.Tensor) -> tf.Tensor:
        self.calls += 1
        return tf.zeros((), activities.dtype if activities.dtype.is_floating else tf.float32)


def without_regularizers(model: Any, stand_in: ZeroRegularizer) -> restoring:
    """Sets the regularizers of a model aside for a block, so that its `losses` hold what calls add by `add_loss`.

    In tf_keras losses that were added as functions, which depend on weights alone, count as regularizers too.

    Args:
        model: A Keras model.
        stand_in: What takes the place of regularizers of activities.

    Returns:
        The context manager of the block.
    """
    layers = [layer for layer in keras_internals.inner_layers(model) if _regularizes_activities(layer)]
    of_activities = [layer.activity_regularizer for layer in layers]
    variables, functions = [], []
    if keras_of(model) is keras:
        variables = [variable for variable in model.trainable_variables if variable.regularizer is not None]
    else:
        functions = [keras_internals.function_losses(layer) for layer in keras_internals.inner_layers(model)]
    of_weights, added = [variable.regularizer for variable in variables], [list(each) for each in functions]

    def set_aside() -> None:
        for layer in layers:
            layer.activity_regularizer = stand_in
        for variable in variables:
            variable.regularizer = None
        for losses in functions:
            losses.clear()

    def put_back() -> None:
        for layer, regularizer in zip(layers, of_activities):
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
