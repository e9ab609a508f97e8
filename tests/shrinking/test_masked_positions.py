"""`shrink` and whole channels where Keras hands layers masks of positions, by itself or as arguments."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf import shrink
from force_tf.models.prunable import all_prunable_weights
from helpers.shrinking import assert_same_function, randomized

pytestmark = [
    pytest.mark.filterwarnings("ignore:Every channel of the model"),
    pytest.mark.usefixtures("float64"),
]

BEHIND = {
    "GlobalAveragePooling1D": lambda layers: [layers.GlobalAveragePooling1D()],
    "BatchNormalization, LSTM": lambda layers: [layers.BatchNormalization(), layers.LSTM(4)],
    "GRU, SimpleRNN": lambda layers: [layers.GRU(5, return_sequences=True), layers.SimpleRNN(4, go_backwards=True)],
    "Bidirectional": lambda layers: [layers.Bidirectional(layers.SimpleRNN(4))],
    "LayerNormalization": lambda layers: [layers.LayerNormalization(), layers.GlobalAveragePooling1D()],
    "TimeDistributed": lambda layers: [layers.TimeDistributed(layers.Dense(4)), layers.GlobalAveragePooling1D()],
    "Activation, Dropout": lambda layers: [
        layers.Activation("tanh"),
        layers.Dropout(0.5),
        layers.GlobalAveragePooling1D(),
    ],
}
KEEP_ALL = ("Bidirectional", "LayerNormalization", "TimeDistributed")


def texts(keras, behind):
    layers = keras.layers
    first = [keras.Input((7,), dtype="int32"), layers.Embedding(9, 5, mask_zero=True), layers.Dense(6, name="first")]
    return keras.Sequential([*first, *behind(layers), layers.Dense(2, name="logits")])


def series(keras, behind):
    layers = keras.layers
    first = [keras.Input((7, 3)), layers.Masking(), layers.Dense(6, name="first")]
    return keras.Sequential([*first, *behind(layers), layers.Dense(2, name="logits")])


def masked_inputs(model, rng):
    """Inputs of lengths from 1 to 7, with what is masked behind them."""
    lives = np.arange(7) < np.array([[1], [7], [4], [5]])
    if model.input_shape == (None, 7):
        return rng.integers(1, 9, (4, 7)) * lives
    return rng.normal(size=(4, 7, 3)) * lives[..., np.newaxis]


@pytest.mark.parametrize(("behind", "network"), [*zip(BEHIND, itertools.cycle([texts, series]))])
def test_masked_positions_stay_masked(either_keras, behind, network):
    model = randomized(network(either_keras, BEHIND[behind]), rng := np.random.default_rng(0))
    masks = {weight.path: rng.random(weight.shape) < 0.8 for weight in all_prunable_weights(model)}
    masks["first/kernel"] = np.tile([True, True, False] * 2, (len(masks["first/kernel"]), 1))
    pruned = force_tf.apply_masks(model, masks)
    small = shrink(pruned)
    assert small.get_layer("first").count_params() < pruned.get_layer("first").count_params() or behind in KEEP_ALL
    x = masked_inputs(model, rng)
    assert_same_function(pruned, small, x)
    other = np.where(x == 0, 1, x)
    assert not np.allclose(pruned(tf.constant(x)), pruned(tf.constant(other))), "no mask was active"


@pytest.mark.parametrize("behind", ["GlobalAveragePooling1D", "BatchNormalization, LSTM"])
def test_whole_channels_before_layers_that_take_a_mask(either_keras, behind):
    model = randomized(series(either_keras, BEHIND[behind]), rng := np.random.default_rng(0))
    pruned = force_tf.PruneAtInit("magnitude", 0.5, granularity="channel").prune(model, verbose=0)
    small = shrink(pruned)
    left = force_tf.get_masks(small)
    assert left.total == left.kept == force_tf.get_masks(pruned).kept
    assert small.get_layer("first").layer.units < 6
    assert_same_function(pruned, small, masked_inputs(model, rng))


def test_masks_as_arguments(either_keras):
    layers = either_keras.layers
    inputs, mask = either_keras.Input((7, 3)), either_keras.Input((7,), dtype="bool")
    x = layers.BatchNormalization()(layers.Dense(6, name="first")(inputs), mask=mask)
    x = layers.LSTM(5, return_sequences=True)(x, mask=mask)
    x = layers.GlobalAveragePooling1D()(layers.Dense(6, name="second")(x), mask=mask)
    model = either_keras.Model([inputs, mask], layers.Dense(2, name="logits")(x))
    randomized(model, rng := np.random.default_rng(0))
    for name in ("first", "second"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.asarray(kernel) * ([1, 1, 0] * 2))
    small = shrink(model)
    assert [small.get_layer(name).units for name in ("first", "second")] == [4, 4]
    given = [tf.constant(rng.normal(size=(4, 7, 3))), tf.constant(np.arange(7) < np.array([[1], [7], [4], [5]]))]
    np.testing.assert_allclose(small(given), model(given), rtol=1e-10)


def test_a_mask_whose_numbers_are_made_keeps_them(either_keras):
    """What looks like channels are positions, of which each is needed."""
    layers = either_keras.layers
    inputs = either_keras.Input((4, 3))
    flat = layers.Dense(4, "relu", name="positions")(layers.Flatten()(inputs))
    pool = layers.GlobalAveragePooling1D()
    x = pool(layers.Dense(6, name="first")(inputs), mask=layers.Rescaling(2.0)(flat))
    model = either_keras.Model(inputs, layers.Dense(2, name="logits")(x))
    randomized(model, rng := np.random.default_rng(0))
    kernel = model.get_layer("positions").kernel
    kernel.assign(np.asarray(kernel) * [1, 0, 1, 1])
    small = shrink(model)
    assert small.get_layer("positions").units == 4
    assert_same_function(model, small, rng.normal(size=(4, 4, 3)))


def test_reports_do_not_list_what_finds_masks_in_tokens(either_keras):
    model = texts(either_keras, BEHIND["GlobalAveragePooling1D"])
    kernel = model.get_layer("first").kernel
    kernel.assign(np.asarray(kernel) * ([1, 1, 0] * 2))
    report = force_tf.shrink_report(model, shrink(model))
    assert report.unknown == {}
