"""Private names of tensorflow-model-optimization (tfmot), which is imported without changing the process."""

from __future__ import annotations

import os
import warnings

import tensorflow as tf


def pruning_classes() -> tuple[type, type, type]:
    """Returns tfmot's pruning wrapper, the class that prunes its weights, and the base class of its schedules.

    Raises:
        ImportError: If tfmot is not installed.
    """
    variable = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(variable)
    # tfmot sets the variable, and a `tf.keras` that was never looked at would then become tf_keras.
    _ = tf.keras.__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about code of its own
            from tensorflow_model_optimization.python.core.sparsity.keras import (
                pruning_impl,
                pruning_schedule,
                pruning_wrapper,
            )
    except ImportError as error:
        raise ImportError(
            "Masks on models of the legacy tf_keras expect tensorflow-model-optimization: run "
            f"`pip install 'force_tf[tfmot]'`. Received: {error}",
            name="tensorflow_model_optimization",
        ) from error
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before
    return pruning_wrapper.PruneLowMagnitude, pruning_impl.Pruning, pruning_schedule.PruningSchedule
