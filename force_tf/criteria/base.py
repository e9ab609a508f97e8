"""What a criterion is: what it must provide, and what it may ask for."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from force_tf.criteria.network import Network
from force_tf.objective.objective import Objective


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

    #: Whether the score needs data.
    needs_data: ClassVar[bool] = True
    #: Whether a score that needs data needs a loss too, and with it targets; False for scores of inputs alone.
    needs_loss: ClassVar[bool] = True
    #: The float type to compute in, by a copy of the model where Keras can make one; None for the model's own.
    precision: ClassVar[str | None] = None
    #: Whether the score needs passes of the network, or to assign its weights; False for scores of the weights' values
    #: and of what is counted alone, which cost less while a network trains.
    needs_network: ClassVar[bool] = True
    #: Whether `scores` trains the network, and so holds copies of the weights. A search then gives the memory of the
    #: scores back after each cut, which costs time to get again.
    trains: ClassVar[bool] = False
    #: What is counted of each weight in every step of a network that trains, and found in `network.memory` then:
    #: "sign_flips".
    counted: ClassVar[tuple[str, ...]] = ()
    #: Of criteria that score whole channels: a function of an array that holds, for each channel, the sum of the scores
    #: of all weights that read it, and returns the scores of the channels. None for criteria that score weights: a
    #: channel then has the sum of the scores of the weights that make it.
    channel_scores: Callable[[np.ndarray], np.ndarray] | None = None

    def loss(self, loss: Objective) -> Objective:
        """Returns the loss to score, given the one that the model trains with."""
        return loss

    def prepare(self, network: Network) -> None:
        """Called once per search, before the first step. May assign the model's variables: they are put back.

        By default traces the gradient of the loss, so that data and targets that do not fit fail before any work.
        """
        if self.needs_data and self.needs_loss:
            network.loss_gradient.trace()

    def assign_masks(self, network: Network, masks: Sequence[Any]) -> None:
        """Called after each cut but the last, and when a search goes on from a checkpoint.

        By default the prunable variables become θ⊙m. A criterion that assigns them itself, in `scores`, has no use for
        that.

        Args:
            network: The network; its `masks` should be the new ones afterwards.
            masks: One array or tensor of booleans per weight, of its shape.
        """
        network.assign_masks(masks)

    @abc.abstractmethod
    def scores(self, network: Network) -> Iterable[tf.Tensor]:
        """Returns the scores of each prunable weight.

        Args:
            network: The network with the present masks applied: `model` computes with θ⊙m.

        Returns:
            One float tensor or array per weight of `network.weights`, of its shape, without NaN. Scores of pruned
            weights count where pruned weights may return.
        """
