"""Files that only tf_keras has, and its ways to assign: masks keep to whatever is loaded."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from force_tf.layers import get_masks
from helpers.training_forms import (
    assert_kernels,
    assert_pruned,
    by_layer_weights,
    by_own_variables,
    data,
    dense_model,
    dtype_policy,
    fit_and_check,
    kernels,
    masked,
    pairs_of_layers,
    wrapped,
)

WEIGHTS = [".weights.h5", ".h5", ""]  # "" for a checkpoint of TensorFlow


@pytest.mark.parametrize("suffix", WEIGHTS, ids=["weights_h5", "h5", "checkpoint"])
def test_weight_files_bring_their_masks_whatever_was_there(suffix, tmp_path):
    path = str(tmp_path / f"weights{suffix}")
    saved, masks = wrapped(tf_keras, seed=1)
    save = tf_keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=4)
    fit_and_check(saved, masks, tf_keras, epochs=1, callbacks=[save])
    model, _ = wrapped(tf_keras, seed=2)
    model.load_weights(path)
    assert get_masks(model) == masks
    assert_pruned(kernels(model), masks, "after loading")
    saved.save_weights(path)
    model.load_weights(path)
    assert_kernels(model, kernels(saved))


def by_assignment(pruned, dense, directory):
    for layer, inner in pairs_of_layers(pruned, dense):
        if hasattr(layer, "kernel"):
            inner.kernel.assign(layer.kernel)


def by_addition(pruned, dense, directory):
    for path, value in kernels(dense).items():
        kernel = pruned.get_layer(path.partition("/")[0]).layer.kernel
        kernel.assign(np.zeros_like(value))
        kernel.assign_add(value)


def by_traced_function(pruned, dense, directory):
    assign_all = tf.function(by_assignment)
    assign_all(pruned, dense, directory)
    assign_all(pruned, dense, directory)  # only the first call runs Python code


def by_checkpoint_of_layers(pruned, dense, directory):
    for layer, inner in pairs_of_layers(pruned, dense):
        path = tf.train.Checkpoint(layer=layer).write(str(directory / layer.name))
        tf.train.Checkpoint(layer=inner).read(path).assert_existing_objects_matched()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "load",
    [by_layer_weights, by_own_variables, by_assignment, by_addition, by_traced_function, by_checkpoint_of_layers],
)
def test_dense_weights_are_masked_when_they_are_loaded(load, policy, tmp_path):
    with dtype_policy(policy, tf_keras):
        pruned, masks = wrapped(tf_keras, seed=1)
        dense = dense_model(tf_keras)
    pruned.fit(*data(8), verbose=0)  # with functions traced before
    load(pruned, dense, tmp_path)
    pruned.save_weights(tmp_path / "loaded.weights.h5")  # before anything reads them
    expected = masked(kernels(dense), masks)
    for path, value in expected.items():
        variable = pruned.get_layer(path.partition("/")[0]).layer.kernel
        np.testing.assert_array_equal(variable.read_value(), value)
        np.testing.assert_array_equal(np.asarray(variable), value)
    assert_kernels(pruned, expected)
    assert get_masks(pruned) == masks
    pruned.load_weights(tmp_path / "loaded.weights.h5")
    assert_kernels(pruned, expected)


def test_dense_checkpoints_of_whole_models_are_masked(tmp_path):
    pruned, masks = wrapped(tf_keras, seed=1)
    dense = dense_model(tf_keras)
    dense.save_weights(str(tmp_path / "dense"))
    pruned.load_weights(str(tmp_path / "dense")).expect_partial()
    assert_kernels(pruned, masked(kernels(dense), masks))
    assert get_masks(pruned) == masks
