"""The scores of a network as it trains: what a criterion sees of it, on one batch per update."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.criteria import Criterion, Network
from force_tf.criteria.gradients import Gradients
from force_tf.granularity import split
from force_tf.models.keras_models import check_inputs
from force_tf.models.weights import values_of
from force_tf.objective.batches import Batch, Batches
from force_tf.objective.objective import Objective
from force_tf.search.flat_scores import fill, score_dtype
from force_tf.training.live_masks import LiveMasks


class UpdateBatches:
    """The batches of each update: the same for all that is scored in it, and the same after a restart.

    Args:
        batches: All batches, in order.
    """

    def __init__(self, batches: Batches):
        self._batches = batches
        self._update = 0
        self._drawn = 0
        self._present: list[Batch] = []

    def begin(self, update: int) -> None:
        """Goes on to an update, from 0. A training that was resumed has left out those before it."""
        self._update, self._present = update, []

    def take(self, count: int) -> list[Batch]:
        """Returns the first `count` batches of this update."""
        if len(self._present) < count:
            # Every update has as many, so those of updates that another process has made are passed over.
            first = self._update * count
            while self._drawn < first:
                next(self._batches)
                self._drawn += 1
            more = self._batches.take(count - len(self._present))
            self._drawn += len(more)
            self._present += more
        return self._present[:count]

    def draw(self, count: int) -> Iterator[Batch]:
        """Yields the first `count` batches of this update."""
        return iter(self.take(count))

    def signature(self, fixed_batch: bool = False) -> Batch:
        return self._batches.signature(fixed_batch)


class Scorer:
    """Scores the weights of a model in the midst of its training by a criterion.

    Pruned weights are zero and have gradients. The model comes back as it was.

    Args:
        criterion: What scores.
        live: The model and its masks.
        batches: The batches, or None where there are no data.
        loss: The loss of the data; None where no criterion needs one.
        batches_per_update: How many batches to average over.

    Raises:
        ValueError: If the data or the loss do not fit the model.
    """

    def __init__(
        self, criterion: Criterion, live: LiveMasks, batches: Any, loss: Objective | None, batches_per_update: int
    ):
        self._criterion, self._live = criterion, live
        self._counted = criterion.counted
        self._network = Network(
            model=live.model,
            weights=live.weights,
            dense=values_of(live.weights),
            gradients=Gradients(live.model, live.weights),
            random=np.random.default_rng(0),
            batches_per_step=batches_per_update,
            loss=criterion.loss(loss) if criterion.needs_data else None,
            batches=batches,
            masks=split(live.kept(), live.weights),
        )
        with self._opened():
            criterion.prepare(self._network)

    def scores(self, seed: Sequence[int], kept: np.ndarray) -> np.ndarray:
        """Returns the scores of all weights, flat.

        Args:
            seed: Non-negative integers, from which random scores are drawn.
            kept: The present masks, flat booleans.
        """
        flat = np.empty(kept.size, score_dtype(self._live.weights))
        masks, dense = split(kept, self._live.weights), self._live.values
        with self._opened():
            random = np.random.default_rng(seed)
            memory = self._network.memory | {name: self._live.remember(name, tf.int32) for name in self._counted}
            network = dataclasses.replace(self._network, dense=dense, random=random, masks=masks, memory=memory)
            try:
                fill(flat, self._criterion.scores(network), self._live.weights)
            except ValueError:
                self._live.check_finite()  # whose message tells the cause, if that is it
                raise
        return flat

    def _opened(self) -> AbstractContextManager:
        return self._live.opened() if self._criterion.needs_network else contextlib.nullcontext()


def update_batches(data: Any, batch_size: int, seed: int, model: Any, loss: Objective) -> UpdateBatches:
    """Returns the batches of the updates, checked against the model."""
    batches = loss.batches(data, batch_size, seed)
    check_inputs(model, batches.first.x)
    return UpdateBatches(batches)
