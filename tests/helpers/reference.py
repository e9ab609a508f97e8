"""An independent search to compare with: eager, in float64, and of Keras nothing but the weights.

It knows one network, an MLP with ReLUs between its layers, and sorts all scores to cut them.
"""

import keras
import numpy as np
import tensorflow as tf


def mlp(sizes=(4, 6, 3), activation=None, **options):
    """A float64 MLP. Its paths are dense_0/kernel, dense_1/kernel, …"""
    layers = [keras.Input(sizes[:1], dtype="float64")]
    for i, size in enumerate(sizes[1:]):
        last = i == len(sizes) - 2
        layers.append(
            keras.layers.Dense(
                size,
                activation=activation if last else "relu",
                bias_initializer="random_normal",
                dtype="float64",
                name=f"dense_{i}",
                **options,
            )
        )
    return keras.Sequential(layers)


def logits(kernels, biases, x):
    for kernel, bias in zip(kernels[:-1], biases):
        x = tf.nn.relu(x @ kernel + bias)
    return x @ kernels[-1] + biases[-1]


def cross_entropy(y, outputs, sample_weight=None):
    """Mean cross-entropy of class indices; weighted rows count as in `fit`: their sum over the number of rows."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int64), outputs)
    return tf.reduce_mean(losses if sample_weight is None else losses * sample_weight)


def snip_masks(model, groups, counts, loss=cross_entropy):
    """(Iterative) SNIP of an `mlp`.

    Args:
        model: The model.
        groups: For each step the list of its batches (x, y) or (x, y, sample_weight).
        counts: For each step how many weights to keep.
        loss: Takes the targets, the logits and the sample weights if there are some; returns a scalar.

    Returns:
        A dict of boolean arrays.
    """
    kernels, biases = dense_kernels(model), [tf.constant(layer.bias) for layer in model.layers]
    keep = np.ones(sum(kernel.shape.num_elements() for kernel in kernels), bool)
    for batches, count in zip(groups, counts):
        masked = [tf.where(mask, kernel, 0) for kernel, mask in zip(kernels, split(keep, kernels))]
        total = [tf.zeros_like(kernel) for kernel in kernels]
        for x, *targets in batches:
            with tf.GradientTape() as tape:
                tape.watch(masked)
                outputs = logits(masked, biases, tf.cast(x, tf.float64))
                value = loss(targets[0], outputs, *targets[1:])
            total = [a + b for a, b in zip(total, tape.gradient(value, masked))]
        scores = flat([np.abs(w * g) / len(batches) for w, g in zip(masked, total)])
        keep = cut(np.where(keep, scores, -1.0), count)
    return named(keep, kernels)


def grasp_masks(model, batch, count, temperature=200.0, loss=cross_entropy):
    """GraSP of an `mlp` on one batch (x, y)."""
    kernels, biases = dense_kernels(model), [tf.constant(layer.bias) for layer in model.layers]
    x, y = batch
    with tf.GradientTape() as outer:
        outer.watch(kernels)
        with tf.GradientTape() as inner:
            inner.watch(kernels)
            value = loss(y, logits(kernels, biases, tf.cast(x, tf.float64)) / temperature)
        gradients = inner.gradient(value, kernels)
        norm = sum(tf.reduce_sum(tf.square(g)) for g in gradients) / 2  # its gradient is Hg
    products = outer.gradient(norm, kernels)
    return named(cut(flat([w * p for w, p in zip(kernels, products)]), count), kernels)


def dense_kernels(model):
    return [tf.constant(layer.kernel) for layer in model.layers]


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


def split(keep, kernels):
    ends = np.cumsum([kernel.shape.num_elements() for kernel in kernels])
    return [part.reshape(kernel.shape) for part, kernel in zip(np.split(keep, ends[:-1]), kernels)]


def named(keep, kernels):
    return {f"dense_{i}/kernel": mask for i, mask in enumerate(split(keep, kernels))}


def cut(scores, count):
    keep = np.zeros(len(scores), bool)
    keep[np.argsort(-scores, kind="stable")[:count]] = True
    return keep


def blobs(rows=24, classes=3, features=4, seed=0):
    """Random inputs (rows, features) in float64 and class indices (rows,)."""
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, features)), random.integers(0, classes, rows)
