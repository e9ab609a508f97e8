"""What holds the pruned entries of a variable of tf_keras at zero, whoever changes it: optimizers, callbacks, files."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
import tf_keras

from force_tf.layers.masking import Forward, masked
from force_tf.models import keras_internals

ResourceVariable = keras_internals.resource_variable_class()


def mask_variable(variable: tf.Variable, mask: tf.Variable) -> None:
    """Makes a variable hold zeros where its mask is 0, from then on.

    All of it stands on the variable, not on its layer, so the layer's own configuration stays as it was.

    Args:
        variable: Float variable of any shape, also one of mixed precision or of `tf.distribute`.
        mask: Variable of the same shape and type, ones and zeros.
    """
    constraint = _KeepPruned(mask, variable.constraint)
    for part, mask_part in zip(_parts(variable), _parts(mask)):
        keras_internals.set_constraint(part, constraint)
        part.__class__ = _MaskedVariable
        part.mask = mask_part


def unmask_variable(variable: tf.Variable) -> None:
    """Undoes `mask_variable`, and leaves θ⊙m in the variable."""
    constraint = variable.constraint.constraint
    for part in _parts(variable):
        part.assign(masked(part, part.mask))
        keras_internals.set_constraint(part, constraint)
        part.__class__ = ResourceVariable
        del part.mask


@contextlib.contextmanager
def showing_all() -> Iterator[None]:
    """Lets masked variables show, for a block in this thread, what they hold under their masks too."""
    before = getattr(_SHOWING, "all", False)
    _SHOWING.all = True
    try:
        yield
    finally:
        _SHOWING.all = before


_SHOWING = threading.local()


def _parts(variable: tf.Variable) -> Iterator[ResourceVariable]:
    variable = keras_internals.without_autocast(variable)
    yield from getattr(variable, "values", (variable,))  # one on each device, under tf.distribute


class _MaskedVariable(ResourceVariable):
    """A variable that whoever reads it finds masked, also after it was assigned from outside.

    It is projected when it is read, not when it is assigned: loading a file assigns a weight before its mask, and what
    a traced function assigns is not noticed here. Traced functions read the variable as it is, so they cost nothing
    more. Where values under the mask train, these stay, and whoever reads the variable is shown others.

    Attributes:
        mask: Variable of the same shape and type.
    """

    def _read_variable_op(self, no_copy=False):
        if not tf.executing_eagerly() or getattr(_SHOWING, "all", False):
            return super()._read_variable_op(no_copy)
        if not self.constraint.is_dense:
            self.assign(masked(super()._read_variable_op(), self.mask))
            return super()._read_variable_op(no_copy)
        if keras_internals.applying_tf_keras_optimizer() is not None:
            return super()._read_variable_op(no_copy)
        return masked(super()._read_variable_op(), self.mask)


class _KeepPruned(tf_keras.constraints.Constraint):
    """Applies the mask, and the user's constraint to θ⊙m. Keras optimizers apply it at the end of every step.

    Attributes:
        forward: What calls of the layer compute with, of θ and m; None for θ⊙m.
        is_dense: Whether the variable holds values under its mask, which train.
    """

    def __init__(self, mask: tf.Variable, constraint: tf_keras.constraints.Constraint | None):
        self.forward: Forward | None = None
        self.is_dense = False
        self.mask = mask
        self.constraint = constraint
        self.observer: Callable[[Any], None] | None = None
        self._optimizers: weakref.WeakSet = weakref.WeakSet()  # those that have trained the weight

    def forget_pruned(self, weight: tf.Variable, optimizer: Any | None = None) -> None:
        """Makes optimizers forget what they remember of pruned entries, so that those start anew if they return.

        An optimizer that has not made a step in this process is not known yet. It only has momenta if they are from a
        file.
        """
        known = [*self._optimizers, *([] if optimizer is None else [optimizer])]
        for each in known:
            for slot in keras_internals.optimizer_slots(each, weight):
                slot.assign(masked(slot, self.mask))

    def __call__(self, weight):
        optimizer = keras_internals.applying_tf_keras_optimizer()
        if optimizer is not None:
            self._optimizers.add(optimizer)
        value = self._constrained(weight)
        if self.observer is not None:
            self.observer(value)
        return value

    def _constrained(self, weight):
        if self.is_dense:
            return weight if self.constraint is None else self.constraint(weight)
        value = masked(weight, self.mask)
        return value if self.constraint is None else masked(self.constraint(value), self.mask)
