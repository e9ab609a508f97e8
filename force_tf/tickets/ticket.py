"""`Ticket`: what `find_ticket` returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.layers import apply_masks
from force_tf.masks import Masks
from force_tf.models.paths import mask_wrappers, unwrapped
from force_tf.models.rebuild import rebuild
from force_tf.tickets.watched_fit import set_steps


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A sparse network that can be trained from where it was rewound to.

    Attributes:
        masks: Which weights are kept.
        weights: The weights to train from, as `model.set_weights` takes them: those of the first training after
            `rewind_step` steps, or, where only the learning rate is rewound, those at the end of the last one. Pruned
            ones are among them.
        history: One dict per round: "round" from 1, "trained_density" of the network that trained, "steps" that it
            trained for, "metrics" that `fit` returned (the last of each), "kept" weights and "density" after the cut,
            and "seconds".
        rewind_step: After how many steps of the optimizer the training of the ticket begins: the step asked for, or the
            last of those that ran at once with it.
    """

    masks: Masks
    weights: list[np.ndarray]
    history: list[dict[str, Any]]
    rewind_step: int

    def apply(self, model: keras.Model) -> keras.Model:
        """Returns the ticket as a model to train: masked and rewound, its optimizer new at step `rewind_step`.

        Args:
            model: The model of which the ticket was found, or one built alike. It stays as it is.

        Raises:
            TypeError: If it is not a Keras model.
            ValueError: If the masks or the weights do not fit it.
        """
        return masked_network(model, self.masks, self.weights, self.rewind_step)


def masked_network(model: keras.Model, masks: Masks, weights: list[np.ndarray] | None, steps: int) -> keras.Model:
    """Returns a masked copy of a model with other weights, whose optimizer is new but for its count of steps.

    Args:
        model: The model; it stays as it is.
        masks: The masks.
        weights: The weights, as `model.set_weights` takes them; None for the model's own.
        steps: What the optimizer counts from, if the model is compiled.
    """
    if weights is not None:
        model = rebuild(model)
        model.set_weights(weights)
    network = apply_masks(model, masks)
    set_steps(network, steps)
    return network


def plain_weights(network: keras.Model) -> list[np.ndarray]:
    """Returns the weights of a masked network as `set_weights` of the model without masks takes them."""
    wrappers = [wrapper for _, wrapper in mask_wrappers(network)]
    inner = {id(weight) for wrapper in wrappers for weight in unwrapped(wrapper).weights}
    own = {id(weight) for wrapper in wrappers for weight in wrapper.weights} - inner
    return [np.array(tf.convert_to_tensor(weight)) for weight in network.weights if id(weight) not in own]
