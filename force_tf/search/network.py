"""The network that a search scores: the user's model, or a copy of it in the precision that a criterion asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf import layers
from force_tf.criteria import Criterion, Network
from force_tf.criteria.gradients import Gradients
from force_tf.models.keras_models import check_has_call, check_model
from force_tf.models.prunable import all_prunable_weights
from force_tf.models.rebuild import rebuild
from force_tf.models.weights import PrunableWeight, values_of
from force_tf.objective.distribution import distribution_of_model
from force_tf.search.data import SearchData


def check_searchable(model: Any) -> None:
    """Raises unless a model is one to find masks for.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built, has no `call`, is pruned already, or is under a strategy that shares no search.
    """
    check_model(model)
    distribution_of_model(model)
    check_has_call(model)
    if layers.is_pruned(model):
        raise ValueError(
            "Expected a model without masks; call `force_tf.strip_pruning(model)` first. "
            f"Received: the model {model.name!r}, which is pruned already"
        )


def build_network(
    criterion: Criterion,
    model: Any,
    weights: Sequence[PrunableWeight],
    data: SearchData,
    *,
    random: np.random.Generator,
    batches_per_step: int,
) -> Network:
    """Returns what a criterion sees of a model.

    Args:
        criterion: What scores.
        model: The model to be pruned.
        weights: Its prunable weights.
        data: The data and the loss of the search.
        random: The search's random generator.
        batches_per_step: How many batches a step averages over.
    """
    model, weights = _in_precision(criterion.precision, model, weights)
    return Network(
        model=model,
        weights=weights,
        dense=values_of(weights),
        gradients=Gradients(model, weights, data.micro_batch_size),
        random=random,
        batches_per_step=batches_per_step,
        loss=data.loss,
        batches=data.batches,
        masks=[np.broadcast_to(True, weight.shape) for weight in weights],
    )


def prepared(criterion: Criterion, network: Network) -> Network:
    """Lets a criterion prepare a network, and returns it as it is then.

    What the criterion makes of the weights, such as their absolute values, are those before pruning from then on.
    """
    criterion.prepare(network)
    return dataclasses.replace(network, dense=values_of(network.weights))


def _in_precision(
    precision: str | None, model: Any, weights: Sequence[PrunableWeight]
) -> tuple[Any, Sequence[PrunableWeight]]:
    """Returns a copy of a model in a precision and its weights, or the model itself where Keras cannot copy it."""
    if precision in (None, model.compute_dtype):
        return model, weights
    try:
        copy = rebuild(model, precision=precision)
    except ValueError:
        return model, weights
    by_path = {weight.path: weight for weight in all_prunable_weights(copy)}
    return copy, [by_path[weight.path] for weight in weights]
