"""The wrappers that hold masks: which class goes with which Keras, and what they hold."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from force_tf.layers.keras3 import MaskedLayer
from force_tf.models.keras_models import keras_of


def wrapper_class(model: Any) -> type:
    """Returns the class of layers that hold masks in models of one Keras.

    Args:
        model: A model of either Keras.

    Raises:
        ImportError: If `model` is of tf_keras, and tensorflow-model-optimization is not installed.
    """
    if keras_of(model) is keras:
        return MaskedLayer
    from force_tf.layers import tf_keras  # which imports tfmot

    return tf_keras.MaskedLayer


def masks_of(wrapper: Any) -> dict[str, np.ndarray]:
    """Returns the masks of a `MaskedLayer` or of one of tfmot's own wrappers.

    Args:
        wrapper: A built wrapper.

    Returns:
        A dict that maps a weight's path relative to the wrapped layer to a boolean array of the weight's shape.
    """
    if hasattr(wrapper, "get_masks"):
        return wrapper.get_masks()
    from force_tf.layers import tfmot

    return tfmot.read_masks(wrapper)
