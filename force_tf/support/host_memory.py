"""Tensors in the memory of the host, where NumPy can compute with them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def is_in_host_memory(tensor: tf.Tensor) -> bool:
    """Returns whether a tensor lies in the memory of the host, and is of a float type that NumPy has."""
    return "CPU" in tensor.device and tensor.dtype in (tf.float32, tf.float64)


def at_rest(tensor: tf.Tensor) -> tf.Tensor | np.ndarray:
    """Returns the values of a tensor to put aside: an array of its own in the memory of the host, elsewhere the tensor.

    On the host TensorFlow keeps the memory that it frees for tensors to come. That of an array is given back.
    """
    return np.array(tensor) if is_in_host_memory(tensor) else tensor
