"""Redrawn initial weights: other numbers, of the same distributions, and nothing else changes."""

import numpy as np
import pytest

import force_tf


def network(keras):
    inputs = keras.Input((6, 3))
    x = keras.layers.LSTM(4, name="lstm")(inputs)
    x = keras.layers.Dense(300, kernel_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=1), name="a")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dense(300, kernel_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=1), name="b")(x)
    return keras.Model(inputs, x)


def test_weights_are_drawn_anew_by_their_initializers(either_keras):
    model, other = network(either_keras), network(either_keras)
    before = [np.array(variable) for variable in model.weights]
    force_tf.redraw_weights(model, seed=3)
    after = [np.array(variable) for variable in model.weights]
    matrices = [i for i, value in enumerate(before) if value.ndim == 2]
    assert len(matrices) == 4
    for i, (old, new) in enumerate(zip(before, after)):
        assert np.array_equal(old, new) == (i not in matrices)  # biases, scales and statistics start as they do
    a, b = (np.array(model.get_layer(name).kernel) for name in "ab")
    assert a.std() == pytest.approx(0.5, rel=0.1)
    assert b.std() == pytest.approx(0.5, rel=0.01)
    assert not np.array_equal(a, b[:4])
    recurrent = after[matrices[1]]  # orthogonal rows
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(4), atol=1e-5)

    force_tf.redraw_weights(other, seed=3)
    for new, same in zip(after, other.weights):
        np.testing.assert_array_equal(new, np.array(same))
    force_tf.redraw_weights(other, seed=4)
    assert not np.array_equal(np.array(other.get_layer("a").kernel), a)


def test_trained_statistics_start_anew_and_masks_stay(either_keras):
    model = network(either_keras)
    pruned = force_tf.PruneAtInit("magnitude", 0.9, scope="layer").prune(model, verbose=0)
    masks = force_tf.get_masks(pruned)
    norm = pruned.get_layer("norm")
    norm.moving_mean.assign(norm.moving_mean + 7)
    force_tf.redraw_weights(pruned, seed=0)
    assert not np.array(norm.moving_mean).any()
    assert force_tf.get_masks(pruned) == masks
    plain = force_tf.strip_pruning(pruned)
    kernel = np.array(plain.get_layer("b").kernel)
    np.testing.assert_array_equal(kernel != 0, masks["b/kernel"])
    assert not np.array_equal(kernel, np.where(masks["b/kernel"], np.array(model.get_layer("b").kernel), 0))


def test_a_weight_without_an_initializer_is_refused_before_anything_changes(either_keras):
    class Scale(either_keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

        def call(self, x):
            return x * self.scale

    model = either_keras.Sequential([either_keras.Input((3,)), either_keras.layers.Dense(2, name="a"), Scale(name="s")])
    before = model.get_weights()
    with pytest.raises(ValueError, match="s/scale without one"):
        force_tf.redraw_weights(model)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
