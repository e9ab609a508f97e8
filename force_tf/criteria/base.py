"""What a criterion is, and what it sees of the network that is being pruned."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from force_tf.models.weights import PrunableWeight
from force_tf.objective.batches import Batch, Batches
from force_tf.objective.gradients import GradientFunction, mean_gradient
from force_tf.objective.losses import DataLoss


class Criterion(abc.ABC):
    """A score (saliency) for every prunable weight; the weights with the largest scores are kept.

    A criterion says what a weight scores and nothing else: how fast the density falls, whether weights may return and
    how the cut is made are settings of `PruneAtInit`. Subclass it, implement `scores`, and pass an instance as
    `PruneAtInit(method=...)`.

    Example:

    ```python
    class Taylor2(force_tf.criteria.Criterion):
        def scores(self, network):
            return [tf.square(w * g) for w, g in zip(network.masked_weights(), network.mean_gradient())]
    ```
    """

    #: Whether the score needs data and a loss.
    needs_data: ClassVar[bool] = True
    #: The float type to compute in, by a copy of the model where Keras can make one; None for the model's own.
    precision: ClassVar[str | None] = None

    def loss(self, loss: DataLoss) -> DataLoss:
        """Returns the loss to score, given the one that the model trains with."""
        return loss

    def prepare(self, network: Network) -> None:
        """Called once per search, before the first step. May assign the model's variables: they are put back.

        By default traces the gradient of the loss, so that data and targets that do not fit fail before any work.
        """
        if self.needs_data:
            network.loss_gradient.trace()

    @abc.abstractmethod
    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        """Returns the scores of each prunable weight.

        Args:
            network: The network with the present masks applied: `model` computes with θ⊙m.

        Returns:
            One float tensor per weight of `network.weights`, of its shape, without NaN. Scores of pruned weights count
            where pruned weights may return.
        """


@dataclasses.dataclass
class Network:
    """The model in the midst of a search, as a criterion sees it.

    Attributes:
        model: The Keras model; its prunable variables hold θ⊙m.
        weights: The prunable weights, in model order.
        dense: θ, the values of these weights before pruning, one tensor each.
        random: The search's random generator.
        batches_per_step: How many batches a step averages over.
    """

    model: Any
    weights: Sequence[PrunableWeight]
    random: np.random.Generator
    batches_per_step: int = 1
    data_loss: DataLoss | None = None
    batches: Batches | None = None
    dense: Sequence[tf.Tensor] = ()
    _functions: dict[Any, GradientFunction] = dataclasses.field(default_factory=dict)

    def masked_weights(self) -> list[tf.Tensor]:
        """Returns θ⊙m, one tensor per weight."""
        return [tf.convert_to_tensor(weight.variable) for weight in self.weights]

    def mean_gradient(self) -> list[tf.Tensor]:
        """Returns ∂L/∂θ̄ at θ̄ = θ⊙m, averaged over the step's batches, one tensor per weight."""
        return mean_gradient(self.loss_gradient, self.next_batches())

    def next_batches(self, groups: int = 1) -> list[Batch]:
        """Draws the next batches of the data: `batches_per_step`, times `groups`."""
        return self.batches.take(self.batches_per_step * groups)

    @property
    def loss_gradient(self) -> GradientFunction:
        """∂L/∂θ̄ at θ̄ = θ⊙m by the prunable weights, in training mode. Call it with the three parts of a batch."""
        return self.gradient_function(self._loss, self.batch_signature())

    @property
    def full_loss_gradient(self) -> GradientFunction:
        """Like `loss_gradient`, by all trainable variables: the prunable weights first, then `other_variables`."""
        return self.gradient_function(self._loss, self.batch_signature(), others=True)

    @property
    def other_variables(self) -> list[Any]:
        """The trainable variables that are not pruned."""
        prunable = {id(weight.variable) for weight in self.weights}
        return [variable for variable in self.model.trainable_variables if id(variable) not in prunable]

    def gradient_function(
        self, function: Callable[..., tf.Tensor], signature: Sequence[Any], others: bool = False
    ) -> GradientFunction:
        """Returns the gradient of a scalar function of the model; one object, hence one trace, per search.

        Args:
            function: Takes the model and the arguments of the gradient function, and returns a scalar tensor.
            signature: The type specs of these arguments.
            others: Whether to differentiate by `other_variables` too, after the prunable weights.
        """
        key = (function, others)
        if key not in self._functions:
            variables = [weight.variable for weight in self.weights]
            names = [weight.path for weight in self.weights]
            if others:
                variables += self.other_variables
                # tf_keras has no paths, but names that hold their layer's.
                names += [getattr(variable, "path", variable.name) for variable in self.other_variables]
            bound = functools.partial(function, self.model)
            self._functions[key] = GradientFunction(bound, variables, names, signature)
        return self._functions[key]

    def batch_signature(self) -> Batch:
        """Returns the type specs of a batch."""
        inputs = getattr(self.model, "inputs", None) or []
        fixed = any(tensor.shape and tensor.shape[0] is not None for tensor in inputs)
        return self.batches.signature(fixed_batch=fixed)

    def _loss(self, model, x, y, sample_weight):
        return self.data_loss(y, model(x, training=True), sample_weight)
