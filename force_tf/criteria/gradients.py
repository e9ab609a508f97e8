"""The gradients that a search needs, each traced once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from force_tf.models.keras_models import call_traced
from force_tf.models.weights import PrunableWeight
from force_tf.objective.gradients import GradientFunction


class Gradients:
    """Makes the gradients of scalar functions of a model, one object for each function, hence one trace.

    Args:
        model: A Keras model, the first argument of the functions.
        weights: Its prunable weights, by which they are differentiated.
        micro_batch_size: How many rows are computed at once; None for a whole batch.
    """

    def __init__(self, model: Any, weights: Sequence[PrunableWeight], micro_batch_size: int | None = None):
        prunable = {id(weight.variable) for weight in weights}
        self.other_variables = [each for each in model.trainable_variables if id(each) not in prunable]
        self._model = model
        self._weights = list(weights)
        self._micro_batch_size = micro_batch_size
        self._made: dict[tuple[Callable, bool], GradientFunction] = {}
        self._traced: dict[Callable, tf.types.experimental.PolymorphicFunction] = {}

    def of(
        self, function: Callable[..., tf.Tensor], signature: Sequence[Any], others: bool = False
    ) -> GradientFunction:
        """Returns the gradient of a function: the object that an equal function brought before, or a new one.

        Args:
            function: Takes the model and the arguments of the gradient function, and returns a scalar tensor.
            signature: The type specs of these arguments, to trace with.
            others: Whether to differentiate by `other_variables` too, after the prunable weights.
        """
        key = (function, others)
        if key not in self._made:
            variables = [weight.variable for weight in self._weights]
            names = [weight.path for weight in self._weights]
            if others:
                variables += self.other_variables
                # tf_keras has no paths, but names that hold their layer's.
                names += [getattr(variable, "path", variable.name) for variable in self.other_variables]
            bound = functools.partial(function, self._model)
            self._made[key] = GradientFunction(bound, variables, names, signature, self._micro_batch_size)
        return self._made[key]

    def traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function of the other arguments than the model, which is not differentiated, traced once.

        Args:
            function: Takes the model and tensors, or structures of them.
        """
        if function not in self._traced:
            bound = functools.partial(function, self._model)
            self._traced[function] = tf.function(bound, autograph=False, reduce_retracing=True)
        return functools.partial(call_traced, self._traced[function])
