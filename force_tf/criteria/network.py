"""The network in the midst of a search, as a criterion sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.criteria.gradients import Gradients
from force_tf.models.keras_models import fixed_batch_size
from force_tf.models.weights import PrunableWeight, values_of
from force_tf.objective.batches import Batch, Batches
from force_tf.objective.gradients import GradientFunction, mean_gradient


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The model in the midst of a search, as a criterion sees it.

    Attributes:
        model: The Keras model; its prunable variables hold θ⊙m.
        weights: The prunable weights, in model order.
        dense: θ, the values of these weights before pruning, one tensor each.
        gradients: The gradients of functions of the model by these weights.
        random: The search's random generator.
        batches_per_step: How many batches a step averages over.
        loss: The loss that is scored, of the model and the three parts of a batch; None if there is none.
        batches: The data; None if there is none.
        masks: The present masks m, booleans of the shape of each weight: arrays, or tensors where the cut is made on an
            accelerator.
        memory: What the criterion wants to remember from one step to the next: lists of tensors by names, which a
            checkpoint of the search can hold.
    """

    model: Any
    weights: Sequence[PrunableWeight]
    dense: Sequence[tf.Tensor]
    gradients: Gradients
    random: np.random.Generator
    batches_per_step: int
    loss: Callable[..., tf.Tensor] | None
    batches: Batches | None
    masks: list[np.ndarray]
    memory: dict[str, list[tf.Tensor]] = dataclasses.field(default_factory=dict)
    _made: dict[Callable[[Network], Any], Any] = dataclasses.field(default_factory=dict, repr=False)

    def masked_weights(self) -> list[tf.Tensor]:
        """Returns θ⊙m, one tensor per weight."""
        return values_of(self.weights)

    def assign_masks(self, masks: Sequence[np.ndarray]) -> None:
        """Assigns θ⊙m to the model's variables, for new masks m.

        Args:
            masks: One array or tensor of booleans per weight, of its shape.
        """
        self.masks[:] = masks
        for weight, dense, mask in zip(self.weights, self.dense, masks):
            weight.variable.assign(tf.where(mask, dense, 0))

    def mean_gradient(self) -> list[tf.Tensor]:
        """Returns ∂L/∂θ̄ at θ̄ = θ⊙m, averaged over the step's batches, one tensor per weight."""
        # Drawn one by one, since several may not fit into memory.
        return mean_gradient(self.loss_gradient, self.batches.draw(self.batches_per_step))

    def next_batches(self, groups: int = 1) -> list[Batch]:
        """Draws the next batches of the data: `batches_per_step`, times `groups`."""
        return self.batches.take(self.batches_per_step * groups)

    @property
    def loss_gradient(self) -> GradientFunction:
        """∂L/∂θ̄ at θ̄ = θ⊙m by the prunable weights, in training mode. Call it with the three parts of a batch."""
        return self.gradient_function(self.loss, self.batch_signature())

    @property
    def full_loss_gradient(self) -> GradientFunction:
        """Like `loss_gradient`, by all trainable variables: the prunable weights first, then `other_variables`."""
        return self.gradient_function(self.loss, self.batch_signature(), others=True)

    @property
    def other_variables(self) -> list[Any]:
        """The trainable variables that are not pruned."""
        return list(self.gradients.other_variables)

    def gradient_function(
        self, function: Callable[..., tf.Tensor], signature: Sequence[Any], others: bool = False
    ) -> GradientFunction:
        """Returns the gradient of a scalar function of the model; one object, hence one trace, per search.

        Args:
            function: Takes the model and the arguments of the gradient function, and returns a scalar tensor. Pass the
                same function every time: another one is traced anew. Under a `tf.distribute` strategy each replica
                calls it with a part of the rows, and the parts are averaged by their numbers of rows: it should be a
                mean over rows.
            signature: The type specs of these arguments, to trace with.
            others: Whether to differentiate by `other_variables` too, after the prunable weights.
        """
        return self.gradients.of(function, signature, others)

    def traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function of the model as one of its other arguments, traced once per search.

        Args:
            function: Takes the model and tensors, or structures of them. Pass the same function every time.
        """
        return self.gradients.traced(function)

    def once(self, make: Callable[[Network], Any]) -> Any:
        """Returns `make(network)`, which is made when a search first asks for it, and kept as long as that lasts.

        Args:
            make: A function or a class. Pass the same one every time.
        """
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    def batch_signature(self) -> Batch:
        """Returns the type specs of a batch."""
        return self.batches.signature(fixed_batch=fixed_batch_size(self.model) is not None)
