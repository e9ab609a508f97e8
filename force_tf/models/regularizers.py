"""Regularizers of weights and activities, set aside while a loss without them is computed."""

from __future__ import annotations

import threading
from typing import Any

import keras
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import keras_of
from force_tf.support.interrupts import restoring

# What is set aside, by the ids of models. The replicas of a strategy are threads that trace the same model in turns.
_blocks: dict[int, _Block] = {}
_lock = threading.Lock()
_thread = threading.local()


class ZeroRegularizers:
    """What stands in for regularizers: zeros, so that `losses` has as many entries as ever.

    Code of the user's may rely on that. And where a layer of tf_keras adds nothing, `losses` has what was left of the
    time when the model was made.

    Attributes:
        entries: How many entries of `losses` are such zeros, after the model was called.
    """

    def __init__(self):
        self.entries = 0


def _of_activities(activities: tf.Tensor) -> tf.Tensor:
    _thread.stand_in.entries += 1  # each is called once, and added
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

    In tf_keras losses that were added as functions, which depend on weights alone, count as regularizers too. Where
    several threads are in such blocks of one model, the last one puts them back.

    Args:
        model: A Keras model.
        stand_in: Counts what takes their place for this thread.

    Returns:
        The context manager of the block.
    """
    outer = getattr(_thread, "stand_in", None)

    def enter() -> None:
        _thread.stand_in = stand_in
        with _lock:
            block = _blocks.get(id(model)) or _Block(model)
            block.depth += 1
            _blocks[id(model)] = block
            if block.depth == 1:
                block.set_aside()
            stand_in.entries += block.constant_entries

    def leave() -> None:
        _thread.stand_in = outer
        with _lock:
            block = _blocks.get(id(model))  # None if it could not be made
            if block is None:
                return
            block.depth -= 1
            if not block.depth:
                del _blocks[id(model)]
                block.put_back()

    return restoring(leave, enter)


class _Block:
    """The regularizers of a model, which can be set aside.

    Attributes:
        depth: How many blocks are open.
        constant_entries: How many entries of `losses` are zeros that depend on no call.
    """

    def __init__(self, model: Any):
        self.depth = 0
        layers = list(keras_internals.inner_layers(model))
        active = [layer for layer in layers if _regularizes_activities(layer)]
        variables, functions = [], []
        if keras_of(model) is keras:
            variables = [variable for variable in model.trainable_variables if variable.regularizer is not None]
        else:
            functions = [keras_internals.function_losses(layer) for layer in layers]
        self._activities = [(layer, layer.activity_regularizer) for layer in active]
        self._weights = [(variable, variable.regularizer) for variable in variables]
        self._functions = [(losses, list(losses)) for losses in functions]
        self.constant_entries = len(variables) + sum(map(len, functions))

    def set_aside(self) -> None:
        for layer, _ in self._activities:
            layer.activity_regularizer = _of_activities
        for variable, _ in self._weights:
            variable.regularizer = _Zero()
        for losses, _ in self._functions:
            losses[:] = [_zero] * len(losses)

    def put_back(self) -> None:
        for layer, regularizer in self._activities:
            layer.activity_regularizer = regularizer
        for variable, regularizer in self._weights:
            variable.regularizer = regularizer
        for losses, before in self._functions:
            losses[:] = before


def _regularizes_activities(layer: Any) -> bool:
    # The wrappers of tf_keras only show that of the layer inside them.
    shown = getattr(type(layer), "activity_regularizer", None)
    shown_only = isinstance(shown, property) and shown.fset is None
    return not shown_only and layer.activity_regularizer is not None
