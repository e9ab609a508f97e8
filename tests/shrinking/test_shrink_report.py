"""`shrink_report` against numbers by hand: what is left of channels, weights and multiply-adds."""

import json

import keras
import numpy as np
import pytest

import force_tf
from force_tf import apply_masks, shrink, shrink_report, strip_pruning
from force_tf.shrinking import LayerChange

# One of 3 filters has no kept weight; of the other 2 one keeps half of its 4. The dense layer keeps all.
FILTERS = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 0]]).reshape(2, 2, 1, 3)
MASKS = {"conv/kernel": FILTERS, "logits/kernel": np.ones((3, 2))}


def network(keras, size=5):
    inputs = keras.Input((size, size, 1))
    x = keras.layers.Conv2D(3, 2, activation="relu", name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="network")


def zeroed(model):
    """The model itself, with zeros where the masks have them."""
    for name, mask in MASKS.items():
        kernel, *others = model.get_layer(name.partition("/")[0]).get_weights()
        model.get_layer(name.partition("/")[0]).set_weights([kernel * mask, *others])
    return model


@pytest.mark.parametrize("form", ["wrapped", "plain", "stripped"])
def test_numbers_by_hand(form, either_keras):
    model = network(either_keras)
    before = zeroed(model) if form == "plain" else apply_masks(model, MASKS)
    after = shrink(before)
    report = shrink_report(before, strip_pruning(after) if form == "stripped" else after)
    # 4 x 4 positions; kernels and biases.
    assert report.layers == (
        LayerChange("conv", "Conv2D", 3, 2, 12 + 3, 8 + 2, 16 * 12, 16 * 8),
        LayerChange("logits", "Dense", 2, 2, 6 + 2, 4 + 2, 6, 4),
    )
    assert report.model == "network"
    assert report.parameters_before == model.count_params()
    assert report.parameters_after == 10 + 4 * 2 + 6, "the normalization has 4 vectors"
    assert report.multiply_adds_before == 16 * 12 + 6
    assert report.multiply_adds_masked == 16 * 6 + 6
    assert report.multiply_adds_after == 16 * 8 + 4
    # Of 12 + 6 prunable weights 6 + 6 were kept; 6 + 4 are on a path to the output.
    assert report.sparsity == pytest.approx(6 / 18)
    assert report.effective_sparsity == pytest.approx(8 / 18)
    assert report.unknown == report.uncounted == {}


def test_prints_as_a_table(either_keras):
    before = apply_masks(network(either_keras), MASKS)
    lines = shrink_report(before, shrink(before)).details().splitlines()
    assert lines[0] == "network"
    words = [line.split() for line in lines]
    assert ["multiply-adds", "198", "132", "1.5x"] in words
    assert ["effective", "sparsity", "33.33%", "44.44%"] in words
    assert ["conv", "Conv2D", "3", "->", "2", "15", "->", "10", "192", "->", "128"] in words


def test_json_holds_the_report(either_keras):
    before = apply_masks(network(either_keras), MASKS)
    report = shrink_report(before, shrink(before))
    read = json.loads(json.dumps(report.to_dict()))
    assert read["layers"][0]["channels_after"] == 2
    assert read["effective_sparsity"] == report.effective_sparsity


def test_models_inside_and_layers_without_a_rule(either_keras):
    layers = either_keras.layers
    inner = [layers.Dense(4, "relu", name="first"), layers.Dense(5, name="second")]
    inner = either_keras.Sequential([either_keras.Input((6,)), *inner], name="inner")
    inputs = either_keras.Input((7, 3))
    x = layers.LSTM(6, name="lstm")(inputs)
    x = layers.LayerNormalization(name="norm")(inner(x))
    model = either_keras.Model(inputs, layers.Dense(2, name="logits")(x))
    masks = {
        weight.path: np.ones(weight.shape, bool) for weight in force_tf.models.prunable.all_prunable_weights(model)
    }
    masks["inner/first/kernel"][:, 1:3] = False
    before = apply_masks(model, masks)
    report = shrink_report(before, shrink(before))
    channels = {layer.path: (layer.channels_before, layer.channels_after) for layer in report.layers}
    assert channels == {"lstm": (6, 6), "inner/first": (4, 2), "inner/second": (5, 5), "logits": (2, 2)}
    assert report.unknown == {"norm": "LayerNormalization"}
    lstm = report.layers[0]
    assert lstm.parameters_before == (3 + 6 + 1) * 24
    assert lstm.multiply_adds_before == 7 * (3 + 6) * 24
    assert report.parameters_before == model.count_params()
    assert report.parameters_after == model.count_params() - 2 * 6 - 2 - 2 * 5
    assert "norm (LayerNormalization)" in report.details()


def test_layers_that_cannot_be_counted(either_keras):
    class Mixed(either_keras.layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")

        def call(self, inputs):
            return inputs @ self.matrix

    inputs = either_keras.Input((3,))
    x = Mixed(name="mixed")(either_keras.layers.Dense(4, name="dense")(inputs))
    before = either_keras.Model(inputs, either_keras.layers.Dense(2, name="logits")(x))
    with pytest.warns(UserWarning, match="Every channel"):
        after = shrink(before)
    report = shrink_report(before, after)
    assert report.unknown == report.uncounted == {"mixed": "Mixed"}
    assert [layer.multiply_adds_before for layer in report.layers] == [12, None, 8]
    assert report.details().count("mixed (Mixed)") == 2


def test_inputs_of_any_size_leave_the_work_open(either_keras):
    before = apply_masks(network(either_keras, size=None), MASKS)
    report = shrink_report(before, shrink(before))
    assert report.multiply_adds_before is report.multiply_adds_masked is report.multiply_adds_after is None
    assert [layer.channels_after for layer in report.layers] == [2, 2]
    assert report.effective_sparsity == pytest.approx(8 / 18)
    assert "?" in report.details()


def test_frozen_layers_stay_in_the_report(either_keras):
    before = apply_masks(network(either_keras), MASKS)
    after = shrink(before)
    before.trainable = after.trainable = False
    assert shrink_report(before, strip_pruning(after)).effective_sparsity == pytest.approx(8 / 18)


def renamed(keras):
    inputs = keras.Input((5, 5, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 2, name="other")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="renamed")


@pytest.mark.parametrize(
    ("after", "error", "message"),
    [
        (lambda before: "model", TypeError, "Expected a model"),
        (lambda before: network(keras, size=6), ValueError, r"inputs of shapes .*5, 5, 1.*6, 6, 1"),
        (lambda before: renamed(keras), ValueError, "'network' and 'renamed', with a layer 'conv'"),
        (lambda before: keras.Sequential([keras.layers.Dense(2)]), ValueError, "built"),
    ],
)
def test_models_that_do_not_belong_together(after, error, message):
    before = network(keras)
    with pytest.raises(error, match=message):
        shrink_report(before, after(before))


def test_the_smaller_model_comes_second():
    before = apply_masks(network(keras), MASKS)
    with pytest.raises(ValueError, match="'conv' of 2 and 3 channels"):
        shrink_report(shrink(before), before)


def test_models_of_different_kerases():
    import tf_keras

    with pytest.raises(TypeError, match="same Keras"):
        shrink_report(network(keras), network(tf_keras))
