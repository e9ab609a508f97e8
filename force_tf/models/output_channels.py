"""Output channels of a weight tensor: along which axes they lie, and which of them pruning has emptied."""

from __future__ import annotations

from typing import Any

import numpy as np

from force_tf.models.keras_models import keras_classes

# Axes of the output channels, counted from the end, where they are not the last axis alone. A depthwise kernel has one
# channel for each pair of an input channel and a multiple; a transposed convolution swaps inputs and outputs.
_OUTPUT_AXES = {
    ("Conv1DTranspose", "kernel"): (-2,),
    ("Conv2DTranspose", "kernel"): (-2,),
    ("Conv3DTranspose", "kernel"): (-2,),
    ("DepthwiseConv1D", "kernel"): (-2, -1),
    ("DepthwiseConv2D", "kernel"): (-2, -1),
    ("SeparableConv1D", "depthwise_kernel"): (-2, -1),
    ("SeparableConv2D", "depthwise_kernel"): (-2, -1),
}


def output_axes(layer: Any, attribute: str) -> tuple[int, ...]:
    """Returns the axes of a weight along which its output channels lie, counted from the end.

    The last axis, except for depthwise kernels and transposed convolutions, and in `EinsumDense` (and so in attention)
    the axes that the equation carries into the output: heads and their units, for a query. The columns of a recurrent
    kernel are the units of each gate; those of an embedding its features.

    Args:
        layer: The layer of either Keras that holds the weight.
        attribute: The name of the weight in that layer, such as "kernel".
    """
    classes = [cls.__name__ for cls in keras_classes(type(layer))]  # a user's class may have the name of one of Keras's
    if "EinsumDense" in classes and attribute == "kernel":
        inputs, output = layer.equation.split("->")
        letters = inputs.split(",")[1].strip()
        return tuple(axis - len(letters) for axis, letter in enumerate(letters) if letter in output)
    return next((_OUTPUT_AXES[name, attribute] for name in classes if (name, attribute) in _OUTPUT_AXES), (-1,))


def dead_channels(mask: np.ndarray, axes: tuple[int, ...] = (-1,)) -> int:
    """Returns how many output channels of a weight have no kept weight.

    Args:
        mask: Boolean array of the weight's shape; True marks a kept weight.
        axes: The axes of the output channels, counted from the end.

    Example:

    >>> dead_channels(np.array([[True, False, False], [False, False, True]]))
    1
    """
    others = tuple(axis for axis in range(mask.ndim) if axis - mask.ndim not in axes)
    return int(np.count_nonzero(~mask.any(axis=others)))
