"""Steps of gradient descent with momentum under a mask, on the host and on devices."""

import numpy as np
import pytest
import tensorflow as tf

from force_tf.criteria.velocity import velocity_of
from force_tf.support import host_memory


@pytest.mark.parametrize("on_host", [True, False])
def test_two_steps_by_hand(on_host, monkeypatch):
    monkeypatch.setattr(host_memory, "is_in_host_memory", lambda tensor: on_host)
    velocity = velocity_of(tf.constant([[1.0, 2.0], [3.0, -4.0]]))
    mask = np.array([[True, False], [True, True]])
    first = velocity.step(tf.constant([[2.0, 2.0], [0.0, -8.0]]), mask, rate=0.25, momentum=0.5)
    np.testing.assert_array_equal(first, [[0, 0], [1.5, 0]])
    np.testing.assert_array_equal(velocity.tensor(), [[0, 2], [1.5, 0]])
    second = velocity.step(tf.constant([[4.0, 4.0], [4.0, 4.0]]), True, rate=0.25, momentum=0.5)
    np.testing.assert_array_equal(second, [[-1, 0], [-0.25, -1]])
    np.testing.assert_array_equal(velocity.tensor(), second)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_compute_the_same_bits(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    start, *gradients = (rng.normal(size=(700, 300)).astype(dtype) for _ in range(4))
    mask, found = rng.random((700, 300)) < 0.5, []
    for on_host in (True, False):
        monkeypatch.setattr(host_memory, "is_in_host_memory", lambda tensor, on_host=on_host: on_host)
        velocity = velocity_of(tf.constant(start))
        changes = [velocity.step(tf.constant(each), mask, rate=0.1, momentum=0.9) for each in gradients]
        found.append(np.stack([*changes, velocity.tensor()]))
    assert found[0].dtype == dtype
    np.testing.assert_array_equal(*found)


def test_on_the_host_the_tensor_stays_as_it_was():
    tensor = tf.constant([1.0, 2.0])
    velocity_of(tensor).step(tf.constant([1.0, 1.0]), True, rate=1.0, momentum=0.5)
    np.testing.assert_array_equal(tensor, [1, 2])
