"""Networks that others designed go the whole way: search, fit, save, load, strip, TFLite."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.models.prunable import all_prunable_weights
from helpers.application_cases import WARNING, WARNS, applications, each_family

layers = keras.layers
# The family whose network is traced fastest; the others take up to minutes each.
QUICK = {("MobileNet", "keras")}


def transformer():
    """A block over tokens and their positions, causal, with a padding mask."""
    inputs = {name: keras.Input((8,), dtype="int32", name=name) for name in ("tokens", "positions")}
    x = layers.Embedding(20, 16, mask_zero=True, name="token_embedding")(inputs["tokens"])
    x = x + layers.Embedding(8, 16, name="position_embedding")(inputs["positions"])
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8, dropout=0.1, name="attention")(y, y, use_causal_mask=True)
    y = layers.Dense(32, activation="gelu", name="up")(layers.LayerNormalization()(x))
    x = x + layers.Dense(16, name="down")(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(applications.CLASSES, name="logits")(x), name="transformer")
    return model, {"tokens": padded_tokens(), "positions": np.tile(np.arange(8), (16, 1))}


def recurrent():
    """Both directions of an LSTM, then two cells on top of each other, over padded tokens."""
    cells = [layers.GRUCell(8, name="cell_a"), layers.SimpleRNNCell(8, name="cell_b")]
    stack = [
        layers.Embedding(20, 8, mask_zero=True, name="embedding"),
        layers.Bidirectional(layers.LSTM(8, return_sequences=True, dropout=0.1, name="lstm"), name="both"),
        layers.RNN(layers.StackedRNNCells(cells, name="cells"), name="stacked"),
        layers.Dense(applications.CLASSES, name="logits"),
    ]
    return keras.Sequential([keras.Input((8,), dtype="int32"), *stack], name="recurrent"), padded_tokens()


def padded_tokens():
    tokens = np.random.default_rng(0).integers(1, 20, (16, 8))
    tokens[::2, 6:] = 0
    return tokens


def check(model, x, y, folder, **search):
    """Asserts what a user relies on at every station, and returns the passage."""
    before = [variable.numpy() for variable in model.variables]
    model.save_weights(folder / "dense.weights.h5")
    passage = applications.pass_through(model, (x, y), folder, sparsity=0.95, seed=0, **search)
    masks, plain = passage.masks, passage.plain

    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=f"{variable.name} of the original has changed")
    assert masks.kept == round(masks.total * (1 - 0.95))
    assert force_tf.get_masks(passage.pruned) == masks
    assert force_tf.get_masks(passage.loaded) == masks
    trained = {weight.path: weight.variable.numpy() for weight in all_prunable_weights(plain)}
    initial = {weight.path: weight.variable.numpy() for weight in all_prunable_weights(model)}
    for stage in (passage.pruned, passage.loaded, plain):
        for weight in all_prunable_weights(stage):
            if weight.path in masks:
                stray = np.count_nonzero(weight.variable.numpy()[~masks[weight.path]])
                assert not stray, f"{stray} pruned weights of {weight.path} are not zero"
    assert any((trained[path] != initial[path])[mask].any() for path, mask in masks.items()), "nothing has trained"

    outputs = passage.pruned(x).numpy()
    np.testing.assert_array_equal(passage.loaded(x), outputs)
    np.testing.assert_allclose(plain(x), outputs, rtol=1e-4, atol=1e-5 * np.abs(outputs).max())
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert [(v.name, v.shape) for v in plain.weights] == [(v.name, v.shape) for v in model.weights]

    assert passage.report is not None, passage.refusal
    assert passage.report.bytes < passage.report.dense_bytes
    assert passage.report.max_difference <= 1e-4 * max(1.0, np.abs(outputs).max())

    plain.load_weights(folder / "dense.weights.h5")
    for loaded, weight in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_array_equal(loaded, weight, err_msg=f"{weight.name} from a dense checkpoint")
    return passage


@each_family(quick=QUICK)
def test_every_family_of_keras_applications(family, module, tmp_path):
    model = applications.build(family, module)
    known = applications.custom_objects(family, model)
    passage = check(model, *applications.random_images(model), tmp_path, custom_objects=known, method="force", steps=3)
    opt_in = {"DepthwiseConv2D": "kernel", "SeparableConv2D": "depthwise_kernel"}
    kinds = [(layer.name, type(layer).__name__) for layer in model.layers]
    assert {path for path, reason in passage.masks.left_out.items() if reason.startswith("not pruned by default")} == {
        f"{name}/{opt_in[kind]}" for name, kind in kinds if kind in opt_in
    }


@pytest.mark.slow
def test_tf_keras_warns_of_networks_without_masks_too():
    model = applications.build(*WARNS)
    with pytest.warns(UserWarning, match=WARNING):
        model.get_config()


@pytest.mark.slow
@pytest.mark.own_process
@pytest.mark.parametrize("family", [name for name, family in applications.FAMILIES.items() if family.unregistered])
def test_what_tf_keras_does_not_find_by_itself(family, tmp_path):
    model = applications.build(family, "tf_keras")
    model.save(tmp_path / "dense.keras")
    load_model = applications.import_keras("tf_keras").models.load_model
    with pytest.raises(TypeError, match="'str' object is not callable"):
        load_model(tmp_path / "dense.keras")
    loaded = load_model(tmp_path / "dense.keras", applications.custom_objects(family, model))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    ("make", "paths"),
    [
        (
            transformer,
            {f"{part}/kernel" for part in ("up", "down")}
            | {f"attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")},
        ),
        (
            recurrent,
            {
                f"{cell}/{kernel}"
                for cell in (
                    *("both/forward_lstm/lstm_cell", "both/backward_lstm/lstm_cell"),
                    *("stacked/cells/cell_a", "stacked/cells/cell_b"),
                )
                for kernel in ("kernel", "recurrent_kernel")
            },
        ),
    ],
    ids=["transformer", "recurrent"],
)
def test_transformers_and_recurrent_networks(make, paths, tmp_path):
    model, x = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    y = np.arange(16) % applications.CLASSES
    passage = check(model, x, y, tmp_path, method="snip")
    assert {path for path in passage.masks if path != "logits/kernel"} == paths
