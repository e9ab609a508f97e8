"""Keras's own `quantize` on pruned models: refused, with the way round that works."""

import keras
import numpy as np
import pytest

import force_tf

# Keras warns of every layer that it cannot quantize, such as inputs and, in its own words, wrappers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")
X = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")


def plain_model():
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)])


def pruned_model():
    return force_tf.PruneAtInit("random", sparsity=0.8, seed=0).prune(plain_model(), verbose=0)


def variables_of(model):
    return [(id(variable), variable.dtype, np.asarray(variable)) for variable in model.variables]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.unmasked, self.masked = keras.layers.Dense(32, "relu"), keras.layers.Dense(4, name="masked")

    def call(self, inputs):
        return self.masked(self.unmasked(inputs))


@pytest.mark.parametrize("make", [plain_model, Subclassed])
def test_nothing_is_quantized_before_the_refusal(make):
    model = make()
    model(X)
    last = model.layers[-1]
    masks = force_tf.Masks({f"{last.name}/kernel": np.eye(32, 4)}, left_out={f"{model.layers[-2].name}/kernel": "mine"})
    pruned = force_tf.apply_masks(model, masks)
    before = variables_of(pruned)
    with pytest.raises(ValueError, match=r"^Expected a model without masks.* of a pruned model$"):
        pruned.quantize("int8")
    for (key, dtype, value), (key_after, dtype_after, value_after) in zip(before, variables_of(pruned), strict=True):
        assert (key, dtype) == (key_after, dtype_after)
        np.testing.assert_array_equal(value, value_after)
    force_tf.strip_pruning(pruned).quantize("int8")  # does not raise


def test_the_refusal_of_a_loaded_model_tells_that_it_may_have_changed(tmp_path):
    pruned_model().save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    with pytest.raises(
        ValueError, match=r"strip_pruning.* before 'dense.*' may be quantized already: load or copy the model anew$"
    ):
        loaded.quantize("int8")


def test_a_pruned_model_is_refused_and_stays_as_it_is():
    pruned = pruned_model()
    before = pruned.predict(X, verbose=0)
    with pytest.raises(ValueError, match=r"^Expected a model without masks: call `force_tf.strip_pruning.*quantize"):
        pruned.quantize("int8")
    np.testing.assert_array_equal(pruned.predict(X, verbose=0), before)


def test_what_is_stripped_can_be_quantized_and_keeps_its_zeros():
    pruned = pruned_model()
    before, masks = pruned.predict(X, verbose=0), force_tf.get_masks(pruned)
    plain = force_tf.strip_pruning(pruned)
    plain.quantize("int8")
    assert np.abs(plain.predict(X, verbose=0) - before).max() < 0.1 * np.abs(before).max()
    for layer, mask in zip(plain.layers, masks.values(), strict=True):
        assert not np.asarray(layer._kernel)[~mask].any()
