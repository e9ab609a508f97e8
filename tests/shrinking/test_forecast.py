"""What `shrink` would leave, told without shrinking, is what it does leave."""

import keras
import numpy as np
import pytest
import tf_keras

import force_tf
from force_tf.shrinking.forecast import Forecast
from helpers.shrinking import chain, convolutions, random_masks

pytestmark = pytest.mark.filterwarnings("ignore:Every channel of the model")


def branches(keras):
    """A residual branch, a concatenation, and a model inside whose inputs and outputs stay."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 1, name="branch")(layers.ReLU()(x)))
    x = layers.Add()([x, y])
    inside = keras.Sequential(
        [keras.Input((8, 8, 8)), layers.SeparableConv2D(7, 3, name="separable"), layers.Conv2D(5, 1, name="last")],
        name="inside",
    )
    x = layers.Concatenate()([inside(x), layers.AveragePooling2D(3, 1)(x)])
    x = layers.LSTM(4, name="lstm")(layers.Reshape((36, 13))(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="branches")


@pytest.mark.parametrize(
    ("module", "build"), [(keras, chain), (keras, convolutions), (keras, branches), (tf_keras, chain)]
)
def test_forecast(module, build):
    model, rng = build(module), np.random.default_rng(0)
    before = model.get_weights()
    forecast, told = None, 0
    for sparsity, dead in ((0.0, 0.0), (0.3, 0.2), (0.6, 0.4), (0.5, 0.1)):
        masks = force_tf.Masks(random_masks(model, rng, sparsity, dead))
        forecast = forecast or Forecast(model, masks)
        found = forecast(masks)
        try:
            small = force_tf.shrink(force_tf.apply_masks(model, masks))
        except force_tf.CollapsedError:
            assert found is None
            continue
        told += 1
        kept = force_tf.get_masks(small)
        plain = force_tf.strip_pruning(small)
        assert found.flops() == force_tf.count_flops(plain, {})
        assert found.parameters == plain.count_params() - (kept.total - kept.kept)
        assert found.flops(masks) == force_tf.count_flops(plain, kept)
        assert {path: (left.size, left.kept) for path, left in found.weights.items()} == {
            path: (mask.size, np.count_nonzero(mask)) for path, mask in kept.items()
        }
    assert told >= 2
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
