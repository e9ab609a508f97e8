"""Gives batch normalizations the statistics of data: without them the activations of an untrained network vanish."""

from __future__ import annotations

import keras
import numpy as np


def set_statistics(model: keras.Model, inputs: np.ndarray) -> None:
    """Sets the moving means and variances of a model of Keras 3 to those of a batch."""
    kind = keras.layers.BatchNormalization
    momenta = {layer: layer.momentum for layer in model._flatten_layers() if isinstance(layer, kind)}
    for layer in momenta:
        layer.momentum = 0.0
    model(inputs, training=True)
    for layer, momentum in momenta.items():
        layer.momentum = momentum
