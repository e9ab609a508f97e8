"""The data and the loss of a search, checked before any work."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import tensorflow as tf

from force_tf.criteria import Criterion
from force_tf.models.keras_models import check_inputs, fixed_batch_size
from force_tf.objective.batches import Batches
from force_tf.objective.distribution import distribution_of_model
from force_tf.objective.objective import Objective
from force_tf.support import arguments
from force_tf.support.arrays import is_array


@dataclasses.dataclass(frozen=True)
class SearchData:
    """What a search draws from, and what it scores.

    Attributes:
        batches: The batches; None if there is no data.
        loss: What is scored; None if the criterion needs no loss.
        micro_batch_size: How many rows of a batch are computed at once; None for all.
        caveat: What the user should know of the loss, or None.
    """

    batches: Batches | None
    loss: Objective | None
    micro_batch_size: int | None = None
    caveat: str | None = None


def check_loss_argument(loss: Any) -> None:
    """Raises if targets stand where the loss is expected.

    Raises:
        TypeError: If `loss` is an array, a list of numbers, or a structure of arrays.
    """
    numbers_count = isinstance(loss, (list, tuple))
    if any(_is_of_targets(leaf, numbers_count) for leaf in tf.nest.flatten(loss)):
        raise TypeError(
            "Expected inputs and targets in one tuple, as in `prune(model, (x, y))`; the loss comes after it. "
            f"Received: targets in the place of `loss`, of type {type(loss).__name__}"
        )


def _is_of_targets(leaf: Any, numbers_count: bool) -> bool:
    if callable(leaf) or isinstance(leaf, (str, bytes)):
        return False
    return is_array(leaf) or (numbers_count and isinstance(leaf, numbers.Number))


def search_data(
    criterion: Criterion,
    model: Any,
    data: Any,
    loss: Any,
    *,
    method: str,
    batch_size: int,
    micro_batch_size: int | None = None,
    seed: int | None,
) -> SearchData:
    """Returns the data and the loss of a search, of which the first batch fits the model.

    Args:
        criterion: What scores.
        model: The model to be pruned.
        data: What `PruneAtInit.find_masks` takes.
        loss: What `PruneAtInit.find_masks` takes.
        method: The name of the criterion.
        batch_size: The batch size for arrays.
        micro_batch_size: What `PruneAtInit.find_masks` takes.
        seed: Shuffles arrays.

    Raises:
        TypeError: If `data` or `loss` are of no form that is known.
        ValueError: If there is no data and the criterion needs it, if data, loss and model do not fit, or if batches
            cannot be split.
    """
    objective = None
    if criterion.needs_data and data is None:
        what = "scores a loss" if criterion.needs_loss else "needs inputs"
        raise ValueError(f"Expected `data`: the method {method!r} {what}. Received: data=None")
    if criterion.needs_data and criterion.needs_loss:
        objective = criterion.loss(Objective(model, loss))
    batches = None
    if data is not None:
        if objective is None:
            distribution = distribution_of_model(model)
            batches = Batches(data, batch_size, seed, needs_targets=False, distribution=distribution)
        else:
            batches = objective.batches(data, batch_size, seed)
        check_inputs(model, batches.first.x)
    _check_micro_batches(micro_batch_size, criterion, model, batches, method=method)
    return SearchData(batches, objective, micro_batch_size, None if objective is None else objective.caveat)


def _check_micro_batches(size: Any, criterion: Criterion, model: Any, batches: Batches | None, *, method: str) -> None:
    """Raises unless batches can be split into parts of a size."""
    if size is None:
        return
    arguments.integer("micro_batch_size", size, minimum=1)
    reason = None
    if not (criterion.needs_data and criterion.needs_loss):
        reason = f"the method {method!r} scores no loss of batches"
    elif fixed_batch_size(model) is not None:
        reason = f"the model {model.name!r} fixes the size of its batches"
    elif batches.are_distributed:
        reason = (
            "a distributed dataset is split already; let it have smaller batches, and take more of them by `batches=`"
        )
    if reason:
        raise ValueError(f"Expected micro_batch_size=None, since {reason}. Received: micro_batch_size={size}")
