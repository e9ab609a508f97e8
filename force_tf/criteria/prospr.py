"""ProsPr: prospect pruning, by meta-gradients through the first steps of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.divergence import naming_divergence
from force_tf.criteria.network import Network
from force_tf.models.keras_models import array_variables, state_variables
from force_tf.objective.batches import Batch
from force_tf.objective.gradients import GradientFunction
from force_tf.support import arguments
from force_tf.support.host_memory import at_rest, put_all_aside, put_aside


@dataclasses.dataclass(frozen=True)
class ProsPr(Criterion):
    """Prospect pruning, |∂L(w_M)/∂m|: what a mask entry matters after M steps of training.

    Starting from w_0 = θ⊙m, inner step i of SGD trains all trainable variables on batch i; the loss L is that of the
    next batch. By the chain rule ∂L(w_M)/∂m = θ ⊙ ∂L(w_M)/∂w_0, and ∂L/∂w_0 follows from ∂L/∂w_M by going back
    through the inner steps with one Hessian product each, which is exact and needs no M unrolled graphs. The weights
    that a step began with are made anew from w_0, so that a meta-gradient takes M (M + 1) / 2 + 1 gradients, M
    Hessian products, and memory that does not grow with M. With several batches per step, as many meta-gradients are
    averaged, each over fresh batches.

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
        arguments.integer("inner_steps", self.inner_steps, minimum=1)
        arguments.number("inner_learning_rate", self.inner_learning_rate, "(0, inf)")
        arguments.number("momentum", self.momentum, "[0, 1)")
        arguments.one_of("first_order", self.first_order, (True, False))

    def prepare(self, network: Network) -> None:
        network.full_loss_gradient.trace()

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        count = network.batches_per_step
        total = self._meta_gradient(network)
        for _ in range(count - 1):
            _add(total, self._meta_gradient(network))
        return _magnitudes(network.dense, total, count)

    def _meta_gradient(self, network: Network) -> list[tf.Tensor]:
        """∂L(w_M)/∂w_0 by the prunable weights, on fresh batches; the model comes back as it was."""
        function = network.full_loss_gradient
        *inner, last = network.batches.take(self.inner_steps + 1)
        start = _Start(network)
        try:
            with naming_divergence(network, "inner_learning_rate", self.inner_learning_rate):
                self._train(function, start.trained, inner)
                meta = function(*last)
                if not self.first_order:
                    self._go_back(function, meta, start, inner)
        finally:
            start.restore()
        return meta[: len(network.weights)]

    def _train(self, function: GradientFunction, variables: Sequence[Any], batches: Sequence[Batch]) -> None:
        """Does one inner step on each batch: v_i = μ v_{i−1} + ∇L_i(w_{i−1}), w_i = w_{i−1} − η v_i."""
        velocity = None
        for batch in batches:
            gradients = function(*batch)
            if velocity is not None:
                _add(gradients, velocity, self.momentum)
            for variable, change in zip(variables, gradients):
                variable.assign(tf.convert_to_tensor(variable) + -self.inner_learning_rate * change)
            velocity = gradients if self.momentum else None
            del gradients  # before the next ones are computed

    def _go_back(
        self, function: GradientFunction, meta: list[tf.Tensor], start: _Start, batches: Sequence[Batch]
    ) -> None:
        """Makes ∂L/∂w_0 of ∂L/∂w_M, in its list, by the adjoint of the inner steps.

        With w̄_i = ∂L/∂w_i, and −η ū_i that of v_i: ū_i = w̄_i + μ ū_{i+1}, w̄_{i−1} = w̄_i − η H_i(w_{i−1}) ū_i.
        """
        put_all_aside(meta)  # while gradients and products are computed, which takes the most memory
        adjoint = None
        for step in reversed(range(len(batches))):
            start.restore()  # with the seeds too: Dropout must drop what it dropped on the way there
            self._train(function, start.trained, batches[:step])
            following, adjoint = adjoint, list(meta)
            if following is not None:
                _add(adjoint, following, self.momentum)
            product = function.hessian_product(adjoint, *batches[step])
            if not self.momentum:
                adjoint = None
            _add(meta, product, -self.inner_learning_rate)


class _Start:
    """All variables of a network as the inner steps find them: the prunable weights θ⊙m, and what the others hold.

    Attributes:
        trained: The variables that the inner steps train: the prunable weights, then the others.
    """

    def __init__(self, network: Network):
        self._network = network
        self.trained = [weight.variable for weight in network.weights] + network.other_variables
        every = array_variables(network.model) + state_variables(network.model)
        trainable = {id(variable) for variable in network.model.trainable_variables}
        self._held = network.other_variables + [each for each in every if id(each) not in trainable]
        self._values = [at_rest(tf.convert_to_tensor(variable)) for variable in self._held]

    def restore(self) -> None:
        self._network.assign_masks(self._network.masks)
        for variable, value in zip(self._held, self._values):
            variable.assign(value)


def _add(tensors: list[tf.Tensor], others: list[tf.Tensor], factor: float = 1.0) -> None:
    """Adds a multiple of other tensors, which leave their list one by one, and puts the sums aside."""
    for place, other in enumerate(others):
        tensors[place] = put_aside(tf.add(tensors[place], factor * other))
        others[place] = None


def _magnitudes(weights: Sequence[tf.Tensor], total: list[tf.Tensor], count: int) -> Iterator[tf.Tensor]:
    """Yields the magnitudes of weights times their mean gradients, which leave their list one by one."""
    for place, weight in enumerate(weights):
        yield tf.abs(weight * total[place] / count)
        total[place] = None
