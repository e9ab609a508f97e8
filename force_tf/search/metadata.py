"""What the masks that a search found say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from force_tf import schedules
from force_tf.models.keras_models import compile_arguments, keras_of
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
        "invert": pruner.invert,
        "repair": pruner.repair,
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


def search_description(
    pruner: PruneAtInit, model: Any, loss: Any, batch_size: int, micro_batch_size: int | None = None
) -> dict[str, Any]:
    """Returns what distinguishes a search from others of the same model and data, as JSON can hold it."""
    settings = settings_of(pruner, model)
    del settings["versions"]
    densities = schedules.densities(schedules.get(pruner.schedule), pruner.steps, 1.0 - pruner.sparsity)
    loss = compile_arguments(model).get("loss") if loss is None else loss
    own = {"densities": [float(density) for density in densities], "batch_size": batch_size, "loss": _named(loss)}
    # Left out where there is none, as it is from files of versions that had no such choice.
    own |= {} if micro_batch_size is None else {"micro_batch_size": micro_batch_size}
    return {"keras": keras_of(model).__name__, **settings, **own}


def _named(loss: Any) -> Any:
    """Returns a loss, or a structure of losses, by names."""
    if isinstance(loss, dict):
        return {str(key): _named(value) for key, value in loss.items()}
    if isinstance(loss, (list, tuple)):
        return [_named(value) for value in loss]
    return loss if loss is None or isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
