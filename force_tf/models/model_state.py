"""What a model holds at a moment, so that it can be compared, kept in a file and put back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import array_variables, state_variables


class ModelState:
    """The values of all variables of a model at the moment at which this is made.

    Args:
        model: A built model of either Keras.

    Attributes:
        values: The values, one tensor per variable, in the order of the model. They share memory with the variables
            until those are assigned.
    """

    def __init__(self, model: Any):
        # The random layers of tf_keras hold their generators outside of all variables of the model.
        self._random = keras_internals.random_generators(keras_internals.inner_layers(model))
        generators = [each.state for each in self._random if each.state is not None]
        self._variables = [*array_variables(model), *state_variables(model), *generators]
        self.values = [tf.convert_to_tensor(variable) for variable in self._variables]

    def changes(self, without: Collection[int] = ()) -> dict[int, tf.Tensor]:
        """Returns the present values of the variables that have other ones now, by their place in the order.

        Args:
            without: The ids of variables that are left out.
        """
        found = {}
        for place, (variable, before) in enumerate(zip(self._variables, self.values)):
            now = tf.convert_to_tensor(variable)
            if id(variable) not in without and not bool(tf.reduce_all(now == before)):
                found[place] = now
        return found

    def assign_changes(self, changes: Mapping[int, tf.Tensor]) -> None:
        """Gives variables the values that `changes` returned, of this model or one that is built alike."""
        for place, value in changes.items():
            self._variables[place].assign(value)

    def seeds(self) -> list[int | None]:
        """Returns the seeds of random layers that are no variables."""
        return [each.seed for each in self._random]

    def set_seeds(self, seeds: list[int | None]) -> None:
        """Sets them to what `seeds` returned."""
        for each, seed in zip(self._random, seeds, strict=True):
            each.seed = seed
