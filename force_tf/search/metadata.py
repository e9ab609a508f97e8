"""What the masks that a search found say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from force_tf.models.keras_models import keras_of
from force_tf.version import __version__

if TYPE_CHECKING:
    from force_tf.search.prune_at_init import PruneAtInit


def settings_of(pruner: PruneAtInit, model: Any) -> dict[str, Any]:
    """Returns the settings of a search in a model, and the versions that it ran on, as JSON can hold them."""
    module = keras_of(model)
    return {
        "method": pruner.method,
        "criterion": repr(pruner.criterion),
        "sparsity": pruner.sparsity,
        "steps": pruner.steps,
        "schedule": pruner.schedule if isinstance(pruner.schedule, str) else repr(pruner.schedule),
        "batches": pruner.batches,
        "revive": pruner.revive,
        "scope": pruner.scope,
        "min_per_layer": pruner.min_per_layer,
        "granularity": pruner.granularity,
        "seed": pruner.seed,
        "versions": {
            "force_tf": __version__,
            module.__name__: module.__version__,
            "tensorflow": tf.__version__,
        },
    }
