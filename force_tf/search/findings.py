"""What a finished search has to say beside its masks: one warning for one cause, and facts for the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from force_tf.models.collapse import (
    ConstantOutputWarning,
    LayerCollapseWarning,
    Trial,
    collapse_message,
    constant_output_message,
    constant_outputs,
)
from force_tf.models.live_paths import count_live
from force_tf.models.weights import PrunableWeight
from force_tf.objective.batches import Batches
from force_tf.search.limits import BoundLimits
from force_tf.search.zero_scores import ZeroScores, ZeroScoresWarning


def warnings_of(
    trial: Trial | Exception | None, zeros: ZeroScores, masks: Mapping[str, np.ndarray]
) -> list[tuple[str, type[Warning]]]:
    """Returns the texts and categories of what the user should be warned of.

    Args:
        trial: What `check_collapse` returned.
        zeros: What was seen of scores that are zero.
        masks: What the search keeps.
    """
    found: list[tuple[str, type[Warning]]] = []
    if isinstance(trial, Exception):
        text = (
            "The masks are found, but whether the pruned network has collapsed could not be checked: the model cannot "
            f"be tried on some rows. Look at its outputs before you train it. Received: {type(trial).__name__}: {trial}"
        )
        found.append((text, UserWarning))
        trial = None
    collapsed = trial is not None and bool(trial.blamed)
    # What prunes nothing harms no network, whatever it computes.
    constant = trial is not None and bool(trial.constant_outputs) and not all(mask.all() for mask in masks.values())
    if collapsed:
        found.append((collapse_message(trial.blamed, masks), LayerCollapseWarning))
    # Where an output ignores the input, a head of zeros for instance, the scores are zero for the same reason.
    text = zeros.message(masks, collapsed, cause=f"{constant_outputs(trial)}." if constant else None)
    if text:
        found.append((text, ZeroScoresWarning))
    elif constant:
        found.append((constant_output_message(trial), ConstantOutputWarning))
    return found


def facts_of(trial: Trial | Exception | None, live: int | None, total: int) -> dict[str, Any]:
    """Returns what the metadata of masks tell of them: None for what could not be told.

    Args:
        trial: What `check_collapse` returned.
        live: How many weights lie on live paths.
        total: How many weights there are.
    """
    blamed = trial.blamed if isinstance(trial, Trial) else []
    return {
        "collapsed": bool(blamed) if isinstance(trial, Trial) else None,
        "collapsed_weights": blamed,
        "effective_sparsity": None if live is None or not total else 1.0 - live / total,
    }


def live_weights(
    model: Any, weights: Sequence[PrunableWeight], masks: Sequence[np.ndarray], batches: Batches | None
) -> int | None:
    """Returns how many of the kept weights lie on live paths; None where that cannot be followed.

    Args:
        model: The model with its dense weights; it comes back as it was.
        weights: Its prunable weights.
        masks: What the search keeps, one boolean array per weight.
        batches: The data of the search, or None.
    """
    try:
        return count_live(model, weights, masks, batches)
    except Exception:  # whatever the model makes of one positive row, the search has its masks
        return None


def budget_facts(limits: BoundLimits | None, costs: Mapping[str, int] | None, keep: np.ndarray) -> dict[str, Any]:
    """Returns what the metadata tell of a budget: for each cost the limit, the result and that of the dense model.

    Args:
        limits: The budget, or None.
        costs: What the pruned network costs.
        keep: The weights that are kept.
    """
    if limits is None:
        return {}
    rows = {
        name: {"budget": most, "result": costs[name], "dense": limits.dense[name]} for name, most in limits.most.items()
    }
    return {"budget": rows, "sparsity": 1.0 - np.count_nonzero(keep) / keep.size}
