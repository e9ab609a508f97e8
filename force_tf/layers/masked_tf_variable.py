"""What holds the pruned entries of a variable of tf_keras at zero, whoever changes it: optimizers, callbacks, files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from force_tf.layers.masking import keep


def mask_variable(variable: tf.Variable, mask: tf.Variable) -> None:
    """Makes a variable hold zeros where its mask is 0, from then on.

    All of it stands on the variable, not on its layer, so the layer's own configuration stays as it was.

    Args:
        variable: Float variable of any shape, also one of mixed precision or of `tf.distribute`.
        mask: Variable of the same shape and type, ones and zeros.
    """
    constraint = _KeepPruned(mask, variable.constraint)
    for part, mask_part in zip(_parts(variable), _parts(mask)):
        part._constraint = constraint
        part.__class__ = _MaskedVariable
        part.mask = mask_part
        part.assigned = False


def unmask_variable(variable: tf.Variable) -> None:
    """Undoes `mask_variable`, and leaves θ⊙m in the variable."""
    constraint = variable.constraint.constraint
    for part in _parts(variable):
        part.assign(keep(part, part.mask))
        part._constraint = constraint
        part.__class__ = ResourceVariable
        del part.mask, part.assigned


def _parts(variable: tf.Variable) -> Iterator[ResourceVariable]:
    variable = getattr(variable, "_variable", variable)  # around which mixed precision puts another
    yield from getattr(variable, "values", (variable,))  # one on each device, under tf.distribute


class _MaskedVariable(ResourceVariable):
    """A variable that whoever reads it finds masked, also after it was assigned from outside.

    It is projected when it is next read, not when it is assigned: loading a file assigns a weight before its mask.
    Training steps are traced, and so neither read nor assigned here: they cost nothing more.

    Attributes:
        mask: Variable of the same shape and type.
        assigned: Whether the variable was assigned since it was last projected.
    """

    def assign(self, *args: Any, **kwargs: Any) -> Any:
        self.assigned = True
        return super().assign(*args, **kwargs)

    def _restore_from_tensors(self, restored_tensors):  # tf.train.Checkpoint
        self.assigned = True
        return super()._restore_from_tensors(restored_tensors)

    def _read_variable_op(self, no_copy=False):
        if self.assigned and tf.executing_eagerly():
            super().assign(keep(super()._read_variable_op(), self.mask))
            self.assigned = False
        return super()._read_variable_op(no_copy)


class _KeepPruned(tf_keras.constraints.Constraint):
    """Applies the mask, and the user's constraint to θ⊙m. Keras optimizers apply it at the end of every step."""

    def __init__(self, mask: tf.Variable, constraint: tf_keras.constraints.Constraint | None):
        self.mask = mask
        self.constraint = constraint

    def __call__(self, weight):
        value = keep(weight, self.mask)
        return value if self.constraint is None else keep(self.constraint(value), self.mask)
