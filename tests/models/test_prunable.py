"""Which weights are found: custom layers say it themselves, or are registered."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.models import layer_kinds


@pytest.fixture(autouse=True)
def _registrations(monkeypatch):
    monkeypatch.setattr(layer_kinds, "_REGISTERED", {})


@keras.saving.register_keras_serializable("test_prunable")
class TwoMatrices(keras.layers.Layer):
    def build(self, input_shape):
        self.first = self.add_weight(shape=(input_shape[-1], 6), name="first")
        self.second = self.add_weight(shape=(6, 4), name="second")

    def call(self, inputs):
        return keras.ops.matmul(keras.ops.matmul(inputs, self.first), self.second)


class Derived(TwoMatrices):
    pass


class SaysItself(TwoMatrices):
    def get_prunable_weights(self):
        return [self.second]


def masks_of(layer):
    model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(3, name="head")])
    return model, force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, verbose=0)


def test_unknown_layers_are_left_alone_and_listed():
    _, masks = masks_of(TwoMatrices(name="own"))
    assert list(masks) == ["head/kernel"]
    assert masks.left_out == {"own": "TwoMatrices has no prunable weights"}


@pytest.mark.parametrize("layer_class", [TwoMatrices, Derived])
def test_registered_weights_are_pruned_trained_and_stripped(layer_class):
    force_tf.register_prunable(TwoMatrices, "first", "second")
    model, masks = masks_of(layer_class(name="own"))
    assert list(masks) == ["own/first", "own/second", "head/kernel"]
    pruned = force_tf.apply_masks(model, masks)
    pruned.compile("adam", "mse")
    pruned.fit(np.ones((8, 5)), np.ones((8, 3)), verbose=0)
    plain = force_tf.strip_pruning(pruned).get_layer("own")
    for name in ("first", "second"):
        assert not np.any(getattr(plain, name).numpy()[~masks[f"own/{name}"]])
        assert np.any(getattr(plain, name).numpy() != getattr(model.get_layer("own"), name).numpy())


def test_a_layer_says_itself_and_registration_goes_before():
    assert list(masks_of(SaysItself(name="own"))[1]) == ["own/second", "head/kernel"]
    force_tf.register_prunable(SaysItself, "first")
    assert list(masks_of(SaysItself(name="own"))[1]) == ["own/first", "head/kernel"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((object, "kernel"), TypeError), ((TwoMatrices(), "first"), TypeError), ((TwoMatrices,), ValueError)],
    ids=["no layer", "an object", "no names"],
)
def test_refuses_what_is_no_layer_class(arguments, error):
    with pytest.raises(error, match=r"^Expected .* Received: "):
        force_tf.register_prunable(*arguments)
