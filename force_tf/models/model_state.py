"""What a model holds at a moment, so that it can be compared, kept in a file and put back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import array_variables, keras_of, state_variables, whole_variable
from force_tf.support.interrupts import restoring


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
        self._seeds = self.seeds()
        # Reading a variable shares its buffer until the variable is assigned, so only what changes costs memory.
        self._copies = [_values([variable]) for variable in self._variables]
        self.values = [copies[0][1] for copies in self._copies]

    def put_back(self) -> None:
        """Gives all variables and seeds the values of that moment."""
        for copies in self._copies:
            _assign(copies)
        self.set_seeds(self._seeds)

    def changes(self, without: Collection[int] = ()) -> dict[int, tf.Tensor]:
        """Returns the present values of the variables that have other ones now, by their place in the order.

        Args:
            without: The ids of variables that are left out.
        """
        found = {}
        for place, (variable, before) in enumerate(zip(self._variables, self.values)):
            now = _value(_copies(variable)[0])
            if id(variable) not in without and not bool(tf.reduce_all(now == before)):
                found[place] = now
        return found

    def assign_changes(self, changes: Mapping[int, tf.Tensor]) -> None:
        """Gives variables the values that `changes` returned, of this model or one that is built alike."""
        for place, value in changes.items():
            for copy in _copies(self._variables[place]):
                copy.assign(value)

    def seeds(self) -> list[int | None]:
        """Returns the seeds of random layers that are no variables."""
        return [each.seed for each in self._random]

    def set_seeds(self, seeds: list[int | None]) -> None:
        """Sets them to what `seeds` returned."""
        for each, seed in zip(self._random, seeds, strict=True):
            each.seed = seed


def preserved_variables(model: Any) -> restoring:
    """Puts every variable of the model back, bit for bit, when a block ends, fails or is interrupted, however often.

    A forward pass in training mode moves batch statistics, states of stateful layers and seeds of Dropout; calls and
    losses of the user's may update metrics; a search also assigns masked weights. Metrics that are new then are reset.

    Returns:
        The context manager of the block.
    """
    state = ModelState(model)
    metrics = {id(metric): metric for metric in _metrics(model)}
    of_metrics = _values([variable for metric in metrics.values() for variable in metric.variables])

    def put_back() -> None:
        state.put_back()
        _assign(of_metrics)
        for metric in _metrics(model):
            if id(metric) not in metrics:
                metric.reset_state()

    return restoring(put_back)


def _metrics(model: Any) -> list[Any]:
    # Keras 3 does not count their variables among those of a model. The user's own `metrics` may want a compiled one.
    return keras_of(model).Model.metrics.fget(model)


def preserved_states(model: Any) -> restoring:
    """Puts the states of a model's stateful layers back when a block ends, fails or is interrupted.

    Returns:
        The context manager of the block.
    """
    state = _values(state_variables(model))

    def put_back() -> None:
        _assign(state)

    return restoring(put_back)


def _values(variables: Iterable[Any]) -> list[tuple[Any, tf.Tensor]]:
    return [(copy, _value(copy)) for variable in variables for copy in _copies(variable)]


def _assign(values: Iterable[tuple[Any, tf.Tensor]]) -> None:
    for variable, value in values:
        variable.assign(value)


def _copies(variable: Any) -> Sequence[Any]:
    """Returns a variable, or its copies on the replicas of this process where each may have a value of its own.

    Such are statistics of batches and seeds. To read them as a whole may need the other processes.
    """
    whole = whole_variable(variable)
    if isinstance(whole, tf.distribute.DistributedValues) and not whole.trainable:
        return whole.distribute_strategy.experimental_local_results(whole)
    return [variable]


def _value(variable: Any) -> tf.Tensor:
    """Returns what a variable stores, which a wrapper may show with a mask over it."""
    return tf.convert_to_tensor(keras_internals.stored_value(variable))
