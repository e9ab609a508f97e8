"""Whole channels that go while a network trains: SNAP-it, and Skeletonization unit by unit."""

import itertools

import keras
import numpy as np

import force_tf
from force_tf.callbacks import PruneDuringTraining
from helpers.moving_masks import X, Y, dense_model, fit


def test_snap_it_prunes_whole_units_which_shrink_removes(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    pruning = PruneDuringTraining("snap_it", sparsity=0.7, data=(X, Y), batch_size=16)
    fit(pruned, pruning, epochs=5)
    assert len(pruning.history) == 8
    masks = force_tf.get_masks(pruned)
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, np.outer(mask.any(axis=1), mask.any(axis=0)), path)
    small = force_tf.shrink(pruned)
    assert [small.get_layer(name).units for name in "ab"] == [
        masks[f"{name}/kernel"].any(axis=0).sum() for name in "ab"
    ]
    assert masks.kept == sum(value.size for value in force_tf.strip_pruning(small).get_weights() if value.ndim == 2)
    assert 0.3 * 344 - 20 < masks.kept <= 0.3 * 344
    np.testing.assert_allclose(small.predict(X, verbose=0), pruned.predict(X, verbose=0), rtol=1e-4, atol=1e-5)


def test_skeletonization_removes_one_unit_at_a_time():
    pruned = force_tf.apply_masks(dense_model(keras))
    settings = {"granularity": "channel", "schedule": "one_by_one", "begin": 0, "end": 24, "every": 4}
    pruning = PruneDuringTraining(force_tf.criteria.Skeletonization(), 0.5, data=(X, Y), **settings)
    fit(pruned, pruning)
    kept = [round(row["density"] * 344) for row in pruning.history]
    assert kept[0] == 344
    # A unit of the first layer has 12 inputs and up to 8 readers, one of the second up to 16 and 3.
    assert all(0 < before - after <= 20 for before, after in itertools.pairwise(kept[:-1])), kept
    assert kept[-1] <= 172
