"""Early tickets: a short lottery-ticket search inside the search."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.divergence import Standstill, naming_divergence
from force_tf.criteria.network import Network
from force_tf.criteria.velocity import velocity_of
from force_tf.models.keras_models import compile_arguments, keras_classes
from force_tf.models.weights import values_of
from force_tf.objective.gradients import mean_gradient
from force_tf.support import arguments


@dataclasses.dataclass(frozen=True)
class EarlyTicket(Criterion):
    """The magnitude |θ| of weights that are trained, from cut to cut, by a few SGD steps of the masked network.

    With v = 0 before the first cut, K steps before each cut do

        v ← (μ v − η ∂L/∂θ̄) ⊙ m,   θ ← θ + v,   θ̄ = θ⊙m,

    where m is 1 for variables that are not pruned. A pruned weight keeps its last value, by which it may return. Only
    the masks leave the search: the model goes back to its initial weights. With several batches per step, each SGD
    step takes the mean gradient over as many.

    This is not pruning at initialization in the strict sense, since it trains; in 60 steps of 16, one or two epochs of
    a small data set. It is iterative magnitude pruning that rewinds to the start, with many small cuts and little
    training between them, and akin to gradual magnitude pruning and to early-bird tickets.

    Args:
        inner_steps: K, the SGD steps before each cut.
        learning_rate: η; None for that of the optimizer that the model is compiled with if that is SGD, else 0.1. The
            rates of Adam and its kin are in other units: taken for SGD, they train too little.
        momentum: μ.

    References:
        - [The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635)
        - [To prune, or not to prune](https://arxiv.org/abs/1710.01878)
        - [Drawing Early-Bird Tickets](https://arxiv.org/abs/1909.11957)
    """

    inner_steps: int = 16
    learning_rate: float | None = None
    momentum: float = 0.9

    trains: ClassVar[bool] = True
    #: The rate for models that are not compiled with SGD.
    DEFAULT_RATE: ClassVar[float] = 0.1

    def __post_init__(self):
        arguments.integer("inner_steps", self.inner_steps, minimum=1)
        if self.learning_rate is not None:
            arguments.number("learning_rate", self.learning_rate, "(0, inf)")
        arguments.number("momentum", self.momentum, "[0, 1)")

    def prepare(self, network: Network) -> None:
        network.full_loss_gradient.trace()
        self._rate(network.model)  # refused before any work
        variables = [*(weight.variable for weight in network.weights), *network.other_variables]
        network.memory["weights"] = values_of(network.weights)
        network.memory["velocities"] = [tf.zeros_like(variable) for variable in variables]

    def assign_masks(self, network: Network, masks: Sequence[Any]) -> None:
        network.masks[:] = masks  # the variables go on from the trained weights, not from θ⊙m

    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        prunable = [weight.variable for weight in network.weights]
        variables, masks = [*prunable, *network.other_variables], network.masks
        options = {"rate": self._rate(network.model), "momentum": self.momentum}
        # Out of the memory, so that what is replaced below, tensor by tensor, is held nowhere else.
        weights, velocities = (list(network.memory.pop(name)) for name in ("weights", "velocities"))
        # While the network trains, its variables hold the kept weights. A pruned weight has no velocity: its last value
        # stands in the place of that, so that one copy holds both.
        for place, (variable, mask) in enumerate(zip(prunable, masks)):
            velocities[place] = velocity_of(tf.where(mask, velocities[place], weights[place]))
            variable.assign(tf.where(mask, weights[place], 0))
            weights[place] = None
        velocities[len(prunable) :] = map(velocity_of, velocities[len(prunable) :])
        standstill = Standstill(network) if all(bool(tf.reduce_all(mask)) for mask in masks) else None
        for _ in range(self.inner_steps):
            with naming_divergence(network, "learning_rate", options["rate"]):
                gradients = mean_gradient(network.full_loss_gradient, network.next_batches())
            if standstill:
                standstill.see(gradients)
            for place, (variable, mask) in enumerate(itertools.zip_longest(variables, masks, fillvalue=True)):
                variable.assign_add(velocities[place].step(gradients[place], mask, **options))
                gradients[place] = None
        if standstill:
            standstill.warn("learning_rate", options["rate"])
        for place, (variable, mask) in enumerate(zip(prunable, masks)):
            held = velocities[place].tensor()
            weights[place] = tf.where(mask, tf.convert_to_tensor(variable), held)
            velocities[place] = tf.where(mask, held, 0)
            variable.assign(weights[place])  # so that both share their memory
        velocities[len(prunable) :] = [velocity.tensor() for velocity in velocities[len(prunable) :]]
        network.memory.update(weights=weights, velocities=velocities)
        return map(tf.abs, weights)

    def _rate(self, model: Any) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        optimizer = compile_arguments(model).get("optimizer")
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # the one that scales the loss of float16
        if all(cls.__name__ != "SGD" for cls in keras_classes(type(optimizer))):  # tf_keras has two of that name
            return self.DEFAULT_RATE
        rate = optimizer.learning_rate
        rate = float(tf.convert_to_tensor(rate(optimizer.iterations) if callable(rate) else rate))
        if not rate > 0:
            raise ValueError(
                "Expected a compiled optimizer whose learning rate is positive at its present step; pass "
                f"`criteria.EarlyTicket(learning_rate=...)` instead. Received: a learning rate of {rate}"
            )
        return rate
