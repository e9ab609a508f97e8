"""What holds the pruned entries of a Keras 3 variable at zero, whoever changes it: optimizers, regularizers, files."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from force_tf.layers.masking import masked
from force_tf.models import keras_internals

# Optimizers that move an entry of a weight by nothing but its own gradients and value: what starts at zero and has a
# gradient of zero stays there, its decay and its moving average included. Exact classes: a subclass may do otherwise.
_ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Nadam,
    keras.optimizers.Adamax,
    keras.optimizers.Adagrad,
    keras.optimizers.Adadelta,
    keras.optimizers.RMSprop,
    keras.optimizers.Lion,
)


def mask_variable(variable: keras.Variable, mask: keras.Variable) -> None:
    """Makes a variable hold zeros where its mask is False, from then on.

    All of it stands on the variable, not on its layer, so the layer's own configuration stays as it was.

    Args:
        variable: Float variable of any shape.
        mask: Boolean variable of the same shape; True marks a kept entry.
    """
    variable.__class__ = _MaskedVariable
    variable.mask = mask
    variable.assigned = False
    variable.forward, variable.is_dense = None, False
    variable.constraint = _KeepPruned(mask, variable.constraint)
    if variable.regularizer is not None:
        variable.regularizer = _MaskedRegularizer(mask, variable.regularizer)


def project_soon(variable: keras.Variable) -> None:
    """Makes the pruned entries of a masked variable zero: at once if it has its value, else when it is first used."""
    variable.assigned = True
    if tf.executing_eagerly():
        _ = variable.value
    if variable.assigned:  # a layer that is made while something is traced: training does not read its weights eagerly
        variable.constraint.at_every_step = True


def unmask_variable(variable: keras.Variable) -> None:
    """Undoes `mask_variable`, and leaves θ⊙m in the variable."""
    variable.assign(masked(variable.value, variable.mask.value))
    variable.constraint = variable.constraint.constraint
    if variable.regularizer is not None:
        variable.regularizer = variable.regularizer.regularizer
    variable.__class__ = keras.Variable
    del variable.mask, variable.assigned, variable.forward, variable.is_dense


class _MaskedVariable(keras.Variable):
    """A variable that whoever reads it finds masked, also after it was assigned from outside.

    It is projected when it is next read, not when it is assigned: loading a file may assign a weight before its mask.
    Training steps are traced, and so neither read nor assigned here: they cost nothing more.

    Attributes:
        mask: Boolean variable of the same shape.
        assigned: Whether the variable was assigned since it was last projected.
        forward: What calls of the layer compute with, of θ and m; None for θ⊙m.
        is_dense: Whether the variable holds values under its mask, which train, and only shows θ⊙m.
    """

    @property
    def value(self):
        if self.is_dense:
            shows_all = not tf.executing_eagerly() or keras_internals.applying_optimizer() is not None
            if shows_all:
                return super().value
            return keras_internals.standing_for(masked(self._value, self.mask.value), self)
        if self.assigned and tf.executing_eagerly() and not _in_replica():
            self.assigned = False
            self._value.assign(masked(self._value, self.mask.value))
        return super().value

    def unmasked(self) -> tf.Variable:
        """Returns what the variable holds, also under its mask."""
        return self._value

    def _serialize_to_tensors(self):  # tf.train.Checkpoint
        return {"VARIABLE_VALUE": self.value} if self.is_dense else super()._serialize_to_tensors()

    # SavedModels hold the variable of TensorFlow itself, which their functions read as the model's do.

    def _export_to_saved_model_graph(self, *args, **kwargs):
        with self._as_stored():
            return super()._export_to_saved_model_graph(*args, **kwargs)

    def _write_object_proto(self, *args, **kwargs):
        with self._as_stored():
            return super()._write_object_proto(*args, **kwargs)

    @contextlib.contextmanager
    def _as_stored(self) -> Iterator[None]:
        before = self.is_dense, self.assigned
        if self.is_dense:
            self.is_dense = self.assigned = False
        try:
            yield
        finally:
            self.is_dense, self.assigned = before

    def _direct_assign(self, value):
        super()._direct_assign(value)
        self.assigned = True

    def _restore_from_tensors(self, restored_tensors):
        restored = super()._restore_from_tensors(restored_tensors)
        self.assigned = True
        return restored


class Penalized(keras.regularizers.Regularizer):
    """A penalty of θ⊙m in addition to a regularizer that is there, or not.

    Args:
        penalty: A function of a float tensor.
        regularizer: The regularizer, or None.
    """

    def __init__(self, penalty: Callable[[tf.Tensor], tf.Tensor], regularizer: keras.regularizers.Regularizer | None):
        self.penalty = penalty
        self.regularizer = regularizer

    def __call__(self, weight):
        added = self.penalty(tf.convert_to_tensor(weight))
        return added if self.regularizer is None else added + self.regularizer(weight)


class _KeepPruned(keras.constraints.Constraint):
    """Applies the mask, and the user's constraint to θ⊙m. Keras optimizers apply it at the end of every step."""

    def __init__(self, mask: keras.Variable, constraint: keras.constraints.Constraint | None):
        self.mask = mask
        self.constraint = constraint
        self.at_every_step = False
        self.observer: Callable[[Any], None] | None = None
        self._optimizers: weakref.WeakSet = weakref.WeakSet()  # those that have trained the weight

    def forget_pruned(self, weight: keras.Variable, optimizer: Any | None = None) -> None:
        """Makes optimizers forget what they remember of pruned entries: their momenta would go on moving these.

        An optimizer that has not made a step in this process is not known yet, and may have momenta from a file.
        Weights are then projected after every step.
        """
        self.at_every_step |= not self._optimizers
        known = [*self._optimizers, *([] if optimizer is None else [optimizer])]
        for each in known:
            for slot in keras_internals.optimizer_slots(each, weight):
                slot.assign(masked(slot.value, self.mask.value))

    def __call__(self, weight):
        value = self._constrained(weight)
        if self.observer is not None:
            self.observer(value)
        return value

    def _constrained(self, weight):
        if getattr(weight, "is_dense", False):
            return weight if self.constraint is None else self.constraint(weight)
        optimizer = keras_internals.applying_optimizer()
        if optimizer is not None:
            self._optimizers.add(optimizer)
        at_every_step = self.at_every_step or self.constraint is not None
        if type(optimizer) in _ELEMENTWISE and not at_every_step and not optimizer.use_ema:
            return weight  # zero it was, and zero its gradient: so it stays, and projecting costs a tenth of a step
        if optimizer is not None and optimizer.use_ema:
            # Optimizers update their averages before they apply constraints, and later copy them into the model.
            average = keras_internals.moving_average(optimizer, weight)
            average.assign(masked(average.value, self.mask))
        value = masked(weight, self.mask)
        return value if self.constraint is None else masked(self.constraint(value), self.mask)


class _MaskedRegularizer(keras.regularizers.Regularizer):
    """Regularizes θ⊙m instead of θ, so that the penalty has no gradient at pruned weights either."""

    def __init__(self, mask: keras.Variable, regularizer: keras.regularizers.Regularizer):
        self.mask = mask
        self.regularizer = regularizer

    def __call__(self, weight):
        return self.regularizer(weight if getattr(weight, "is_dense", False) else masked(weight, self.mask))


def _in_replica() -> bool:
    """Returns whether this is one of the replicas of a strategy, which may not assign what they share."""
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
