"""The data and the loss of a search, checked before any work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from force_tf.criteria import Criterion
from force_tf.models.keras_models import check_inputs
from force_tf.objective.batches import Batches
from force_tf.objective.losses import DataLoss


@dataclasses.dataclass(frozen=True)
class SearchData:
    """What a search draws from, and what it scores.

    Attributes:
        batches: The batches; None if there is no data.
        loss: The loss of a batch in training mode, of a model and the three parts of the batch; None if the criterion
            needs none.
    """

    batches: Batches | None
    loss: Callable[..., tf.Tensor] | None


def check_loss_argument(loss: Any) -> None:
    """Raises if targets stand where the loss is expected.

    Raises:
        TypeError: If `loss` is an array.
    """
    if hasattr(loss, "__array__") and not callable(loss):
        raise TypeError(
            "Expected inputs and targets in one tuple, as in `prune(model, (x, y))`; the loss comes after it. "
            f"Received: an array in the place of `loss`, of type {type(loss).__name__}"
        )


def search_data(
    criterion: Criterion, model: Any, data: Any, loss: Any, *, method: str, batch_size: int, seed: int | None
) -> SearchData:
    """Returns the data and the loss of a search, of which the first batch fits the model.

    Args:
        criterion: What scores.
        model: The model to be pruned.
        data: What `PruneAtInit.find_masks` takes.
        loss: What `PruneAtInit.find_masks` takes.
        method: The name of the criterion.
        batch_size: The batch size for arrays.
        seed: Shuffles arrays.

    Raises:
        TypeError: If `data` or `loss` are of no form that is known.
        ValueError: If there is no data and the criterion needs it, or if data, loss and model do not fit.
    """
    data_loss = None
    if criterion.needs_data:
        if data is None:
            raise ValueError(f"Expected `data`: the method {method!r} scores a loss. Received: data=None")
        data_loss = criterion.loss(DataLoss(model, loss))
    batches = None
    if data is not None:
        batches = Batches(data, batch_size, seed, check=data_loss.check_targets if data_loss else None)
        check_inputs(model, batches.first.x)
    return SearchData(batches, None if data_loss is None else loss_of_batch(data_loss))


def loss_of_batch(data_loss: DataLoss) -> Callable[..., tf.Tensor]:
    """Returns the loss of a batch in training mode, as a function of a model and the three parts of the batch."""
    return functools.partial(_loss_of_batch, data_loss)


def _loss_of_batch(data_loss: DataLoss, model: Any, x: Any, y: Any, sample_weight: Any) -> tf.Tensor:
    return data_loss(y, model(x, training=True), sample_weight)
