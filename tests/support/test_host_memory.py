"""What is put aside has the values it had, in memory that the system gets back."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from force_tf.support.host_memory import at_rest, put_aside

SHAPES = [(), (1,), (0, 3), (5, 7), (64, 64), (1, 1025, 1), (3, 3, 128, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_values_shapes_and_types_stay(shape, dtype):
    tensor = tf.cast(tf.random.stateless_normal(shape, [0, 1]), dtype)
    for aside in (put_aside(tensor), tf.convert_to_tensor(at_rest(tensor))):
        assert (aside.dtype, aside.shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(aside.numpy(), tensor.numpy())


def test_it_is_a_tensor_to_compute_with_and_to_assign():
    tensor = tf.random.stateless_normal((300, 200), [0, 1])
    aside, variable = put_aside(tensor), tf.Variable(tf.zeros((300, 200)))
    product = tf.function(lambda value: tf.linalg.matmul(value, value, transpose_b=True))(aside)
    np.testing.assert_array_equal(product, tf.linalg.matmul(tensor, tensor, transpose_b=True))
    variable.assign(aside)
    variable.assign_add(tf.ones_like(variable))
    np.testing.assert_array_equal(aside, tensor)  # what a variable took over is not changed under another's hands


def test_an_array_at_rest_is_another_ones_to_change():
    tensor = tf.random.stateless_normal((300, 200), [0, 1])
    before, array = tensor.numpy().copy(), at_rest(tensor)
    array += 1
    np.testing.assert_array_equal(tensor, before)


def resident_bytes():
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_system_gets_the_memory_back():
    """Of many tensors of a middling size, whose memory an allocator of arrays would keep for later ones."""
    tensors = [tf.random.stateless_normal((1000, 1000), [0, seed]) for seed in range(20)]
    size = 20 * 4_000_000
    for keeps in (put_aside, at_rest):
        before = resident_bytes()
        aside = list(map(keeps, tensors))
        assert resident_bytes() - before > 0.9 * size
        del aside
        assert resident_bytes() - before < 0.1 * size
