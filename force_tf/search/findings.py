"""What a finished search has to say beside its masks: one warning for one cause, and facts for the metadata."""

from __future__ import annotations

from collections.abc import Mapping
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
            f"be tried on some rows. Received: {type(trial).__name__}: {trial}"
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


def facts_of(trial: Trial | Exception | None) -> dict[str, Any]:
    """Returns "collapsed", None if it could not be told, and "collapsed_weights", for the metadata of masks."""
    blamed = trial.blamed if isinstance(trial, Trial) else []
    return {"collapsed": bool(blamed) if isinstance(trial, Trial) else None, "collapsed_weights": blamed}
