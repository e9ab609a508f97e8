"""Tries the network that a search leaves. Its failure never costs a finished search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf.models.collapse import Trial, probe_inputs, try_masks
from force_tf.models.weights import PrunableWeight
from force_tf.objective.batches import Batches


def check_collapse(
    model: Any,
    weights: Sequence[PrunableWeight],
    masks: Sequence[np.ndarray],
    batches: Batches | None,
    random: np.random.Generator,
) -> Trial | Exception | None:
    """Returns what comes of trying the pruned network.

    Args:
        model: The model with its dense weights; it comes back as it was.
        weights: Its prunable weights.
        masks: What the search keeps, one boolean array per weight.
        batches: The data of the search, or None.
        random: Draws rows where the data has none.

    Returns:
        The trial; the exception that the model raised instead; or None if there is nothing to try it on, as of a
        subclassed model without data.
    """
    try:
        probe = probe_inputs(model, batches, random)
        return None if probe is None else try_masks(model, weights, masks, probe)
    except Exception as error:  # whatever the model makes of these rows, the search has its masks
        return error
