"""The product of weights and gradients that most scores are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.support.blocks import over_blocks
from force_tf.support.host_memory import is_in_host_memory


def sensitivities(weights: Iterable[tf.Tensor], gradients: Iterable[tf.Tensor]) -> Iterator[Any]:
    """Yields |w ⊙ g| for each weight w and its gradient g, one after another.

    In the memory of the host NumPy computes it block by block, so that a product is still in the processor's cache when
    its absolute value is taken, and the array is all the memory that it needs.

    Args:
        weights: Tensors.
        gradients: Tensors of their shapes and dtypes.

    Returns:
        An iterator over arrays or tensors of these shapes and dtypes.
    """
    for weight, gradient in zip(weights, gradients):
        if is_in_host_memory(weight):
            yield _on_host(weight, gradient)
        else:
            yield tf.abs(weight * gradient)
        del weight, gradient


def _on_host(weight: tf.Tensor, gradient: tf.Tensor) -> np.ndarray:
    # Not `.numpy()`, which copies.
    weight, gradient = np.asarray(weight), np.asarray(gradient)
    result = np.empty_like(weight)
    parts = weight.reshape(-1), gradient.reshape(-1), result.reshape(-1)

    def compute(block):
        factor, other, product = (part[block] for part in parts)
        np.abs(np.multiply(factor, other, out=product), out=product)

    over_blocks(compute, result.size)
    return result
