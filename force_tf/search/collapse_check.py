"""Says whether the network that a search leaves has collapsed. Its failure never costs a finished search."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from force_tf.models.collapse import LayerCollapseWarning, collapse_message, collapsed_weights, probe_inputs
from force_tf.models.weights import PrunableWeight
from force_tf.objective.batches import Batches


def check_collapse(
    model: Any,
    weights: Sequence[PrunableWeight],
    masks: Mapping[str, np.ndarray],
    *,
    batches: Batches | None,
    random: np.random.Generator,
    stacklevel: int,
) -> dict[str, Any]:
    """Tries the pruned network, and warns if its output no longer depends on its input.

    Args:
        model: The model with its dense weights; it comes back as it was.
        weights: Its prunable weights.
        masks: What the search keeps, by the paths of the weights.
        batches: The data of the search, or None.
        random: Draws rows where the data has none.
        stacklevel: Whose line the warning names: 1 for the caller of this function.

    Returns:
        Facts for the metadata of the masks: "collapsed", None if it could not be told, and "collapsed_weights".
    """
    unknown = {"collapsed": None, "collapsed_weights": []}
    try:
        inputs = probe_inputs(model, batches, random)
        if inputs is None:  # a subclassed model and no data: there is nothing to try it on
            return unknown
        paths = collapsed_weights(model, weights, list(masks.values()), inputs)
    except Exception as error:  # whatever the model makes of these inputs, the search has its masks
        warnings.warn(
            "The masks are found, but whether the pruned network has collapsed could not be checked: the model cannot "
            f"be tried on some rows. Received: {type(error).__name__}: {error}",
            stacklevel=stacklevel + 1,
        )
        return unknown
    if paths:
        warnings.warn(collapse_message(paths, masks), LayerCollapseWarning, stacklevel=stacklevel + 1)
    return {"collapsed": bool(paths), "collapsed_weights": paths}
