"""ProsPr: prospect pruning, by meta-gradients through the first steps of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.network import Network
from force_tf.models.keras_models import array_variables, state_variables
from force_tf.objective.batches import Batch
from force_tf.objective.gradients import GradientFunction
from force_tf.support.host_memory import at_rest


@dataclasses.dataclass(frozen=True)
class ProsPr(Criterion):
    """Prospect pruning, |∂L(w_M)/∂m|: what a mask entry matters after M steps of training.

    Starting from w_0 = θ⊙m, inner step i of SGD trains all trainable variables on batch i; the loss L is that of the
    next batch. By the chain rule ∂L(w_M)/∂m = θ ⊙ ∂L(w_M)/∂w_0, and ∂L/∂w_0 follows from ∂L/∂w_M by going back
    through the inner steps with one Hessian product each, which is exact and needs memory for M copies of the weights
    rather than for M unrolled graphs. With several batches per step, as many meta-gradients are averaged, each over
    fresh batches.

    Args:
        inner_steps: M, the number of SGD steps to look ahead.
        inner_learning_rate: The learning rate of these steps.
        momentum: Their momentum.
        first_order: Detach the inner gradients, so that ∂L/∂w_0 becomes ∂L/∂w_M. Cheaper, and less exact.

    References:
        - [ProsPr](https://arxiv.org/abs/2202.08132)
    """

    trains: ClassVar[bool] = True
    inner_steps: int = 3
    inner_learning_rate: float = 0.1
    momentum: float = 0.0
    first_order: bool = False

    def __post_init__(self):
        if self.inner_steps < 1:
            raise ValueError(f"Expected at least one inner step. Received: inner_steps={self.inner_steps!r}")
        if not self.inner_learning_rate > 0:
            raise ValueError(
                f"Expected a positive learning rate. Received: inner_learning_rate={self.inner_learning_rate!r}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected a momentum in [0, 1). Received: momentum={self.momentum!r}")

    def prepare(self, network: Network) -> None:
        network.full_loss_gradient.trace()

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        total = None
        for _ in range(network.batches_per_step):
            gradients = self._meta_gradient(network, network.batches.take(self.inner_steps + 1))
            total = gradients if total is None else [sum_ + gradient for sum_, gradient in zip(total, gradients)]
        count = network.batches_per_step
        return (tf.abs(weight * gradient / count) for weight, gradient in zip(network.dense, total))

    def _meta_gradient(self, network: Network, batches: Sequence[Batch]) -> list[tf.Tensor]:
        """∂L(w_M)/∂w_0 by the prunable weights; the model comes back as it was."""
        function = network.full_loss_gradient
        *inner, last = batches
        states = [_State(network, holds_prunable=False)]
        try:
            self._train(function, network, states, inner)
            meta = function(*last)
            if not self.first_order:
                self._go_back(function, meta, states, inner)
        finally:
            states[0].restore()
        return meta[: len(network.weights)]

    def _train(
        self, function: GradientFunction, network: Network, states: list[_State], batches: Sequence[Batch]
    ) -> None:
        """Does the inner steps, and appends the states before all but the first, whose state is there."""
        velocity = None
        for step, batch in enumerate(batches):
            if step:
                states.append(_State(network))
            gradients = function(*batch)
            if velocity is not None:
                _add(gradients, velocity, self.momentum)
            velocity = gradients
            for variable, change in zip(states[-1].variables, velocity):
                variable.assign(tf.convert_to_tensor(variable) + -self.inner_learning_rate * change)

    def _go_back(
        self, function: GradientFunction, meta: list[tf.Tensor], states: list[_State], batches: Sequence[Batch]
    ) -> None:
        """Makes ∂L/∂w_0 of ∂L/∂w_M, in its list, and lets go of all states but the first on the way.

        By the adjoint of v_i = μ v_{i−1} + ∇L_i(w_{i−1}), w_i = w_{i−1} − η v_i.
        """
        velocity_adjoint = [tf.zeros_like(tensor) for tensor in meta]
        for batch in reversed(batches):
            states[-1].restore()  # with the seeds too: Dropout must drop what it dropped on the way there
            if len(states) > 1:  # the first one puts the model back
                states.pop()
            for place, tensor in enumerate(meta):
                velocity_adjoint[place] = self.momentum * velocity_adjoint[place] - self.inner_learning_rate * tensor
                meta[place] = at_rest(tensor)  # while the product is computed, which takes the most memory
            _add(meta, function.hessian_product(velocity_adjoint, *batch), 1.0)


class _State:
    """The values of all variables of a network at one inner step.

    Args:
        network: The network.
        holds_prunable: Whether to hold those of the prunable weights too; False where they are θ⊙m, which is made anew.
    """

    def __init__(self, network: Network, holds_prunable: bool = True):
        self._network, self._holds_prunable = network, holds_prunable
        self.variables = [weight.variable for weight in network.weights] + network.other_variables
        trained = self.variables if holds_prunable else network.other_variables
        trainable = {id(variable) for variable in network.model.trainable_variables}
        every = array_variables(network.model) + state_variables(network.model)
        self._held = trained + [each for each in every if id(each) not in trainable]
        self._values = [at_rest(tf.convert_to_tensor(variable)) for variable in self._held]

    def restore(self) -> None:
        if not self._holds_prunable:
            self._network.assign_masks(self._network.masks)
        for variable, value in zip(self._held, self._values):
            variable.assign(value)


def _add(tensors: list[tf.Tensor], others: list[tf.Tensor], factor: float) -> None:
    """Adds a multiple of other tensors, which leave their list one by one, so that there are never three of all."""
    for place, other in enumerate(others):
        tensors[place] = tf.add(tensors[place], factor * other)
        others[place] = None
