"""Moments whose second derivatives are right, for normalization layers to trace with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

# Each of the two Kerases looks the function up when a layer is called, in another copy of TensorFlow's names.
_MODULES = (tf.nn, tf.compat.v2.nn)
_ORIGINALS = tuple(module.moments for module in _MODULES)

_lock = threading.Lock()
_blocks = 0  # of all threads
_thread = threading.local()


@contextlib.contextmanager
def twice_differentiable_moments() -> Iterator[None]:
    """Lets normalization layers that this thread calls in the block trace with moments that can be derived twice.

    `tf.nn.moments` stops the gradient of the mean inside the variance. That is harmless for first derivatives, where
    the term vanishes, but not for second ones: Hessian products through BatchNorm come out up to a third off. Other
    threads get TensorFlow's own function all the while, and so do all when the last block has ended.
    """
    global _blocks
    depth = getattr(_thread, "depth", 0)
    with _lock:
        _blocks += 1
        if _blocks == 1:
            for module, original in zip(_MODULES, _ORIGINALS):
                module.moments = _dispatching(original)
    try:
        _thread.depth = depth + 1
        yield
    finally:
        _thread.depth = depth
        with _lock:
            _blocks -= 1
            if not _blocks:
                for module, original in zip(_MODULES, _ORIGINALS):
                    module.moments = original


def _dispatching(original: Any) -> Any:
    def moments(x, axes, shift=None, keepdims=False, name=None):
        if getattr(_thread, "depth", 0):
            return _moments(x, axes, keepdims)
        return original(x, axes, shift=shift, keepdims=keepdims, name=name)

    return moments


def _moments(x: tf.Tensor, axes: Sequence[int], keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    dtype = x.dtype
    x = tf.cast(x, tf.float32) if dtype in (tf.float16, tf.bfloat16) else x
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True)
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, dtype), tf.cast(variance, dtype)
