"""Synaptic flow, held against the sums over paths of a small network written out."""

import numpy as np
import pytest

import force_tf


@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")
@pytest.mark.parametrize(("method", "power"), [("synflow", 1), ("synflow_l2", 2)])
def test_scores_are_sums_over_paths(either_keras, method, power):
    layers = either_keras.layers
    hidden = layers.Dense(5, activation="relu", use_bias=False, name="hidden")
    model = either_keras.Sequential([either_keras.Input((4,)), hidden, layers.Dense(3, use_bias=False, name="head")])
    first, last = (np.abs(np.array(w, "float64")) ** power for w in (model.layers[0].kernel, model.layers[1].kernel))
    # Of every path from an input through a hidden unit to an output, the product of its two weights.
    paths = first[:, :, np.newaxis] * last[np.newaxis]
    scores = np.concatenate([paths.sum(axis=2).ravel(), paths.sum(axis=0).ravel()])
    order = np.argsort(-scores, kind="stable")
    others = []
    for count in range(3, 33, 3):
        settings = {"sparsity": 1 - count / 35, "steps": 1}
        masks = force_tf.PruneAtInit(method, **settings).find_masks(model, verbose=0)
        found = np.concatenate([masks["hidden/kernel"].ravel(), masks["head/kernel"].ravel()])
        assert sorted(np.flatnonzero(found)) == sorted(order[:count])
        other = force_tf.PruneAtInit("synflow_l2" if power == 1 else "synflow", **settings)
        others.append(other.find_masks(model, verbose=0) != masks)
    assert any(others)
