"""Output channels of a weight tensor: along which axes they lie, and which of them pruning has emptied."""

from __future__ import annotations

from typing import Any

import numpy as np

from force_tf.models.layer_kinds import is_kind, kind_of


def output_axes(layer: Any, attribute: str) -> tuple[int, ...]:
    """Returns the axes of a weight along which its output channels lie, counted from the end.

    The last axis, except for depthwise kernels and transposed convolutions, and in `EinsumDense` (and so in attention)
    the axes that the equation carries into the output: heads and their units, for a query. The columns of a recurrent
    kernel are the units of each gate; those of an embedding its features.

    Args:
        layer: The layer of either Keras that holds the weight.
        attribute: The name of the weight in that layer, such as "kernel".
    """
    axes = kind_of(layer).output_axes
    if attribute == "kernel" and attribute not in axes and is_kind(layer, "EinsumDense"):
        inputs, output = layer.equation.split("->")
        letters = inputs.split(",")[1].strip()
        return tuple(axis - len(letters) for axis, letter in enumerate(letters) if letter in output)
    return axes.get(attribute, (-1,))


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
