"""Keras's own `quantize` on pruned models: refused, with the way round that works."""

import keras
import numpy as np
import pytest

import force_tf

# Keras warns of every layer that it cannot quantize, such as inputs and, in its own words, wrappers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")
X = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")


def pruned_model():
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)])
    return force_tf.PruneAtInit("random", sparsity=0.8, seed=0).prune(model, verbose=0)


def test_a_pruned_model_is_refused_and_stays_as_it_is(tmp_path):
    pruned = pruned_model()
    before = pruned.predict(X, verbose=0)
    with pytest.raises(ValueError, match=r"^Expected a model without masks: call `force_tf.strip_pruning.*quantize"):
        pruned.quantize("int8")
    np.testing.assert_array_equal(pruned.predict(X, verbose=0), before)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    with pytest.raises(ValueError, match=r"strip_pruning"):
        loaded.quantize("int8")


def test_what_is_stripped_can_be_quantized_and_keeps_its_zeros():
    pruned = pruned_model()
    before, masks = pruned.predict(X, verbose=0), force_tf.get_masks(pruned)
    plain = force_tf.strip_pruning(pruned)
    plain.quantize("int8")
    assert np.abs(plain.predict(X, verbose=0) - before).max() < 0.1 * np.abs(before).max()
    for layer, mask in zip(plain.layers, masks.values(), strict=True):
        assert not np.asarray(layer._kernel)[~mask].any()
