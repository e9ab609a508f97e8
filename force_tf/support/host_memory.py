"""Tensors in the memory of the host: for NumPy to compute with, and to put aside while they wait."""

from __future__ import annotations

import mmap

import numpy as np
import tensorflow as tf


def is_in_host_memory(tensor: tf.Tensor) -> bool:
    """Returns whether a tensor lies in the memory of the host, and is of a float type that NumPy has."""
    return "CPU" in tensor.device and tensor.dtype in (tf.float32, tf.float64)


def at_rest(tensor: tf.Tensor) -> tf.Tensor | np.ndarray:
    """Returns the values of a tensor to put aside: an array of its own in the memory of the host, elsewhere the tensor.

    On the host TensorFlow keeps the memory that it frees for tensors to come. That of the array is given back.
    """
    if not is_in_host_memory(tensor):
        return tensor
    return _array_in_pages(tensor) if _fills_a_page(tensor) else np.array(tensor)


def put_aside(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the values of a tensor to put aside, like `at_rest`, but as a tensor: to compute with as it is."""
    if not is_in_host_memory(tensor) or not _fills_a_page(tensor):
        return tensor
    # TensorFlow takes an array over, and makes no copy, only by this protocol.
    return tf.experimental.dlpack.from_dlpack(_array_in_pages(tensor).__dlpack__())


def put_all_aside(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Puts tensors aside in their list, one by one, so that there are never two of all of them, and returns it."""
    for place, tensor in enumerate(tensors):
        tensors[place] = put_aside(tensor)
    return tensors


def _fills_a_page(tensor: tf.Tensor) -> bool:
    return _bytes(tensor) >= mmap.PAGESIZE


def _array_in_pages(tensor: tf.Tensor) -> np.ndarray:
    """Returns a copy in pages of its own, aligned as TensorFlow wants it: arrays of some sizes lie in a heap."""
    array = np.frombuffer(mmap.mmap(-1, _bytes(tensor)), tensor.dtype.as_numpy_dtype).reshape(tensor.shape)
    np.copyto(array, tensor)
    return array


def _bytes(tensor: tf.Tensor) -> int:
    return tensor.dtype.size * tensor.shape.num_elements()
