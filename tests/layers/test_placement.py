"""Masks reach their weights however models are nested, or are refused."""

import numpy as np
import pytest

import force_tf
from force_tf.layers import apply


def deep(keras):
    """A graph in a Sequential model in a graph."""
    layers = keras.layers
    inner_inputs = keras.Input((6,))
    inner = keras.Model(
        inner_inputs, layers.Dense(6, name="deep")(layers.Dense(6, name="deeper")(inner_inputs)), name="in"
    )
    middle = keras.Sequential([keras.Input((6,)), inner, layers.Dense(5, name="middle")], name="mid")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3, name="head")(middle(inputs)))


def random_masks(model):
    rng = np.random.default_rng(0)
    paths = force_tf.PruneAtInit("magnitude", sparsity=0.0).find_masks(model, verbose=0)
    return force_tf.Masks({path: rng.random(mask.shape) < 0.5 for path, mask in paths.items()})


def test_models_in_models_in_models(either_keras):
    model = deep(either_keras)
    masks = random_masks(model)
    assert list(masks) == ["mid/in/deeper/kernel", "mid/in/deep/kernel", "mid/middle/kernel", "head/kernel"]
    pruned = force_tf.apply_masks(model, masks)
    x = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")
    expected = x
    for path, mask in masks.items():
        layer = model
        for name in path.split("/")[:-1]:
            layer = layer.get_layer(name)
        expected = expected @ (np.asarray(layer.kernel) * mask)
    np.testing.assert_allclose(np.asarray(pruned(x)), expected, rtol=1e-4, atol=1e-5)


def test_a_mask_that_finds_no_wrapper_is_an_error(either_keras, monkeypatch):
    model = deep(either_keras)
    masks = random_masks(model)
    complete = apply.paths_by_layer

    def forgetful(*arguments):
        return dict(list(complete(*arguments).items())[1:])

    monkeypatch.setattr(apply, "paths_by_layer", forgetful)
    with pytest.raises(RuntimeError, match=r"^Expected each mask to come to its weight.*mid/in/deeper/kernel in"):
        force_tf.apply_masks(model, masks)
