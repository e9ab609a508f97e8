"""Searches in several threads: each gets the masks that it gets alone, and TensorFlow is as it was."""

import threading

import numpy as np
import tensorflow as tf

import force_tf
from force_tf.objective.moments import twice_differentiable_moments

X = tf.constant(np.random.default_rng(0).normal(size=(6, 3)))


def second_derivative():
    """The Hessian's diagonal of the sum of the fourth powers of normalized numbers, by `tf.nn.moments`."""
    with tf.GradientTape() as outer:
        outer.watch(X)
        with tf.GradientTape() as inner:
            inner.watch(X)
            mean, variance = tf.nn.moments(X, [0], keepdims=True)
            value = tf.reduce_sum(((X - mean) / tf.sqrt(variance)) ** 4)
        gradient = inner.gradient(value, X)
    return outer.gradient(gradient, X).numpy()


def test_blocks_of_threads_overlap():
    before = tf.nn.moments, tf.compat.v2.nn.moments
    plain = second_derivative()
    with twice_differentiable_moments():
        right = second_derivative()
    assert np.abs(right - plain).max() > 0.01, "the two should differ"
    entered, leave, found = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)], {}

    def work(index):
        with twice_differentiable_moments():
            entered[index].set()
            leave[index].wait(20)
            found[index] = second_derivative()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread, event in zip(threads, entered):
        thread.start()
        assert event.wait(20)
    np.testing.assert_array_equal(second_derivative(), plain, err_msg="another thread's blocks concern this one")
    # The first to enter leaves first.
    for thread, event in zip(threads, leave):
        event.set()
        thread.join(20)
    np.testing.assert_array_equal(found[0], right)
    np.testing.assert_array_equal(found[1], right)
    assert (tf.nn.moments, tf.compat.v2.nn.moments) == before


def test_searches_in_two_threads(either_keras):
    layers = either_keras.layers

    def model():
        stack = [layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
        return either_keras.Sequential([either_keras.Input((6, 6, 2)), *stack])

    models = [model() for _ in range(2)]
    data = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32"), np.arange(16) % 3
    loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def search(model):
        return force_tf.PruneAtInit("grasp", sparsity=0.8, seed=0).find_masks(model, data, loss, verbose=0)

    alone = [search(model) for model in models]
    before, found = (tf.nn.moments, tf.compat.v2.nn.moments), {}
    threads = [
        threading.Thread(target=lambda index=index: found.update({index: search(models[index])})) for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[0], found[1]] == alone
    assert (tf.nn.moments, tf.compat.v2.nn.moments) == before
