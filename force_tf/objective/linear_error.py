"""The linear error |t − o|, in place of the loss that a model trains on."""

from __future__ import annotations

import tensorflow as tf


def linear_error(
    target: tf.Tensor, output: tf.Tensor, *, classes: bool, probabilities: str | None, axis: int
) -> tf.Tensor:
    """Returns Σ |t − o| over the last axis.

    Args:
        target: t, of the shape of the output; class numbers without that axis where `classes` says so.
        output: What the model returns.
        classes: Whether targets are class numbers.
        probabilities: What makes probabilities o of logits: "softmax", "sigmoid", or None where the output is o.
        axis: The axis of the classes.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if classes:
        if target.shape.rank == output.shape.rank:
            target = tf.squeeze(target, -1)
        target = tf.one_hot(tf.cast(target, tf.int64), output.shape[axis], axis=axis, dtype=output.dtype)
    if not target.shape.is_compatible_with(output.shape):
        raise ValueError(
            "Expected targets of the shape of the outputs, or class numbers for a sparse categorical cross-entropy, "
            f"for the linear error |t − o|. Received: targets of shape {tuple(target.shape)}, outputs of shape "
            f"{tuple(output.shape)}"
        )
    if probabilities is not None:
        output = tf.nn.softmax(output, axis) if probabilities == "softmax" else tf.sigmoid(output)
    return tf.reduce_sum(tf.abs(tf.cast(target, output.dtype) - output), axis=-1)
