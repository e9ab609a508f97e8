"""`apply_masks`, `get_masks` and `strip_pruning` on whole models of every form."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from force_tf.layers import MaskedLayer, apply_masks, get_masks, is_pruned, strip_pruning
from force_tf.masks import Masks
from force_tf.prunable import all_prunable_weights, prunable_weights

layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* looks like it has unbuilt state")


class Block(layers.Layer):
    """A layer of layers without names and without a `build`, and not registered."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.second = layers.Dense(units, activation="relu"), layers.Dense(units)

    def call(self, inputs):
        return inputs + self.second(self.first(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential():
    stack = [layers.Conv2D(3, 3, name="conv"), layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((5, 5, 1)), *stack, layers.Dense(2, name="logits")], name="net")


def sequential_without_input():
    model = keras.Sequential([layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    model.build((None, 4))
    return model


def nested():
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, layers.Dense(4, name="conv1")(inner_inputs), name="backbone")
    deep = keras.Sequential([keras.Input((4,)), inner, layers.Dense(4, name="conv1")], name="deep")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="conv1")(deep(inputs)))


def shared():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    tower = layers.Dense(4, name="tower")
    merged = layers.Concatenate()([tower(left), tower(right)])
    return keras.Model([left, right], layers.Dense(1, name="head")(merged))


def dictionaries():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    x = keras.ops.relu(layers.Concatenate()([inputs["a"], inputs["b"]]))
    return keras.Model(inputs, {"y": layers.Dense(2, name="y")(x), "z": layers.Dense(1, name="z")(x)})


def sequences():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x, training=False)
    x = layers.TimeDistributed(layers.Dense(3, name="dense"), name="each")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x))


def custom_layers():
    inputs = keras.Input((4,))
    x = Block(name="block")(inputs)
    x = layers.Dense(4, activation=lambda_free_activation, name="dense")(x)
    return keras.Model(inputs, layers.Lambda(lambda t: 2.0 * t)(x))


def lambda_free_activation(x):
    return keras.ops.tanh(x) + 1.0


MODELS = [sequential, sequential_without_input, nested, shared, dictionaries, sequences, custom_layers]


def masks_for(model, density=0.5, seed=0):
    rng = np.random.default_rng(seed)
    weights, left_out = prunable_weights(model)
    return Masks({weight.path: rng.random(weight.shape) < density for weight in weights}, left_out=left_out)


def inputs_for(model):
    rng = np.random.default_rng(0)

    def batch(tensor):
        shape = (3, *tensor.shape[1:])
        return rng.integers(0, 7, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(batch, model.input if isinstance(model, keras.Function) else model.inputs[0])


def with_product(model, masks):
    """Puts θ⊙m into a plain model, by hand."""
    for weight in all_prunable_weights(model):
        if weight.path in masks:
            weight.variable.assign(weight.variable.numpy() * masks[weight.path])
    return model


def assert_same(actual, expected):
    keras.tree.assert_same_structure(actual, expected)
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def layer_names(model):
    return [layer.name for layer in model.layers]


@pytest.mark.parametrize("make", MODELS)
def test_apply_read_and_strip(make):
    model = make()
    masks, x = masks_for(model), inputs_for(model)
    before = [variable.numpy() for variable in model.variables]
    pruned = apply_masks(model, masks)
    plain = strip_pruning(pruned)

    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=f"{variable.path} of the original has changed")
    assert not {id(v) for v in pruned.variables} & {id(v) for v in [*model.variables, *plain.variables]}
    assert list(get_masks(pruned)) == list(masks), "paths or their order differ"
    assert get_masks(pruned) == masks
    assert is_pruned(pruned)
    assert not is_pruned(model)
    assert not is_pruned(plain)
    for copy in (pruned, plain):
        assert (copy.name, layer_names(copy)) == (model.name, layer_names(model))
        assert copy.output_names == model.output_names if hasattr(model, "output_names") else True
        assert type(copy) is type(model)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
    expected = with_product(model, masks)(x)
    assert_same(pruned(x), expected)
    assert_same(plain(x), expected)


def test_paths_reach_into_models_and_layers():
    assert list(get_masks(apply_masks(nested(), masks_for(nested())))) == [
        "deep/backbone/conv1/kernel",
        "deep/conv1/kernel",
        "conv1/kernel",
    ]
    model = sequences()
    pruned = apply_masks(model, masks_for(model))
    assert "both/forward_lstm/lstm_cell/recurrent_kernel" in get_masks(pruned)
    assert get_masks(pruned).left_out["embedding/embeddings"] == "not masked"
    assert isinstance(pruned.get_layer("attention"), MaskedLayer)
    assert not isinstance(pruned.get_layer("embedding"), MaskedLayer)


def test_weights_that_are_not_pruned_by_default_may_have_a_mask():
    model = sequences()
    masks = {**masks_for(model), "embedding/embeddings": np.eye(7, 4, dtype=bool)}
    pruned = apply_masks(model, masks)
    np.testing.assert_array_equal(pruned.get_layer("embedding").layer.embeddings.numpy() != 0, np.eye(7, 4))


def test_layers_used_twice_have_one_wrapper():
    model = shared()
    pruned = apply_masks(model, masks_for(model))
    assert len(pruned.trainable_variables) == len(model.trainable_variables)
    assert sum(isinstance(layer, MaskedLayer) for layer in pruned.layers) == 2


def test_state_flags_and_policies_are_carried_over():
    inputs = keras.Input((4,))
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(20, 4)))
    x = layers.Dropout(0.5, seed=7)(normalization(inputs))
    x = layers.Dense(3, name="half", dtype="mixed_bfloat16")(x)
    model = keras.Model(inputs, layers.Dense(2, name="frozen")(layers.BatchNormalization(name="bn")(x)))
    masks, x = masks_for(model), inputs_for(model)
    model(x, training=True)  # moves the statistics and the seed
    model.get_layer("bn").trainable = False
    pruned = apply_masks(model, masks)
    pruned.get_layer("frozen").trainable = False
    plain = strip_pruning(pruned)
    assert pruned.get_layer("half").compute_dtype == "bfloat16"
    assert not pruned.get_layer("bn").trainable
    assert [layer.name for layer in plain.layers if not layer.trainable] == ["bn", "frozen"]
    assert [v.name for v in plain.trainable_variables] == ["kernel", "bias"]
    assert get_masks(pruned) == masks
    expected = with_product(model, masks)(x, training=True)
    assert_same(pruned(x, training=True), expected)
    assert_same(plain(x, training=True), expected)


def custom_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


class HalvingSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.5 / (1.0 + keras.ops.cast(step, "float32"))

    def get_config(self):
        return {}


def test_compile_configuration_is_carried_over():
    model = dictionaries()
    model.compile(
        keras.optimizers.SGD(HalvingSchedule(), momentum=0.8, clipnorm=1.0),
        loss={"y": custom_loss, "z": keras.losses.Huber(0.3)},
        loss_weights={"y": 1.0, "z": 0.2},
        metrics={"y": [keras.metrics.MeanAbsoluteError(name="distance"), custom_loss], "z": None},
        weighted_metrics={"z": ["mse"]},
        steps_per_execution=2,
        jit_compile=True,
    )
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    x = inputs_for(model)
    y = {"y": np.ones((3, 2)), "z": np.ones((3, 1))}
    masks = masks_for(model)
    pruned = apply_masks(model, masks)
    for copy in (pruned, strip_pruning(pruned)):
        assert copy.optimizer is not model.optimizer
        assert type(copy.optimizer) is keras.optimizers.SGD
        assert (copy.optimizer.momentum, copy.optimizer.clipnorm) == (0.8, 1.0)
        assert float(copy.optimizer.learning_rate) == 0.5
        assert (copy.steps_per_execution, copy.jit_compile, copy.run_eagerly) == (2, True, False)
        decayed = [v.name for v in copy.trainable_variables if copy.optimizer._use_weight_decay(v)]
        assert decayed == ["kernel", "kernel"]
        results = copy.evaluate(x, y, verbose=0, return_dict=True)
        expected = with_product(model, masks).evaluate(x, y, verbose=0, return_dict=True)
        assert results == pytest.approx(expected)
        assert not {id(metric) for metric in copy.metrics} & {id(metric) for metric in model.metrics}
        assert np.isfinite(copy.fit(x, y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("scale", [True, False])
def test_loss_scaling_is_neither_doubled_nor_added(scale):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(inputs))
    model.dtype_policy = keras.DTypePolicy("mixed_float16")
    model.compile("adam", "mse", auto_scale_loss=scale)
    pruned = apply_masks(model, masks_for(model))
    assert pruned.dtype_policy.name == "mixed_float16"
    assert isinstance(pruned.optimizer, keras.optimizers.LossScaleOptimizer) == scale
    innermost = pruned.optimizer.inner_optimizer if scale else pruned.optimizer
    assert type(innermost) is keras.optimizers.Adam


class CountingModel(keras.Model):
    def train_step(self, data):
        self.steps_seen = getattr(self, "steps_seen", 0) + 1
        return super().train_step(data)


def test_a_class_with_its_own_train_step_is_kept():
    inputs = keras.Input((4,))
    model = CountingModel(inputs, layers.Dense(2)(inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    pruned = apply_masks(model, masks_for(model))
    pruned.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=4, verbose=0)
    assert type(pruned) is CountingModel
    assert pruned.steps_seen == 2


FRESH_PROCESS = """
import sys, keras, numpy as np, force_tf.layers
model = keras.saving.load_model(sys.argv[1])
masks = force_tf.layers.get_masks(model)
np.savez(sys.argv[2], output=model(np.load(sys.argv[3])), **{k.replace("/", "|"): m for k, m in masks.items()})
"""


def test_files_load_in_a_fresh_process_without_custom_objects(tmp_path):
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = layers.GRU(3, name="gru")(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    pruned = apply_masks(model, masks_for(model))
    batch = inputs_for(model)
    pruned.save(tmp_path / "pruned.keras")
    np.save(tmp_path / "x.npy", batch)
    paths = [str(tmp_path / name) for name in ("pruned.keras", "read.npz", "x.npy")]
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, *paths], check=True, timeout=120)
    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_allclose(read["output"], pruned(batch), rtol=1e-5)
        assert Masks({k.replace("|", "/"): read[k] for k in read.files if k != "output"}) == get_masks(pruned)


def test_weight_files_carry_the_masks(tmp_path):
    model = sequences()
    pruned = apply_masks(model, masks_for(model, seed=1))
    pruned.save_weights(tmp_path / "pruned.weights.h5")
    other = apply_masks(sequences(), masks_for(model, seed=2))
    other.load_weights(tmp_path / "pruned.weights.h5")
    assert get_masks(other) == get_masks(pruned)
    x = inputs_for(model)
    assert_same(other(x), pruned(x))


@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer")  # by Keras, for such layers in any file
def test_names_inside_custom_layers_outlive_saving(tmp_path):
    model = custom_layers()
    masks = masks_for(model)
    pruned = apply_masks(model, masks)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(
        tmp_path / "pruned.keras", {"Block": Block, "lambda_free_activation": lambda_free_activation}, safe_mode=False
    )
    assert get_masks(loaded) == masks


def test_wrapped_models_convert_to_tflite_and_saved_model(tmp_path):
    model = sequential()
    pruned = apply_masks(model, masks_for(model))
    x = inputs_for(model)
    content = tf.lite.TFLiteConverter.from_keras_model(pruned).convert()
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=content)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, pruned(x), rtol=1e-4, atol=1e-5)
    pruned.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(x), pruned(x), rtol=1e-5, atol=1e-6)


def test_models_and_masks_that_do_not_fit_are_refused():
    model = sequential()
    masks = dict(masks_for(model))
    kernel = masks["logits/kernel"]
    for wrong, message in (
        ({"conv/kernel": masks["conv/kernel"]}, "'logits/kernel' is a prunable weight of the model, but has no mask"),
        ({**masks, "extra/kernel": kernel}, "a mask for 'extra/kernel', but the model has no such"),
        ({**masks, "logits/kernel": kernel.T}, "'logits/kernel' has shape"),
        ({}, "Received: an empty mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_masks(model, wrong)
    pruned = apply_masks(model, masks)
    with pytest.raises(ValueError, match=r"strip_pruning first\. Received: 'net'"):
        apply_masks(pruned, masks)
    for function in (get_masks, strip_pruning):
        with pytest.raises(ValueError, match=r"Expected a model wrapped by apply_masks\. Received: 'net'"):
            function(model)
    with pytest.raises(TypeError, match=r"Expected a model of keras or tf_keras"):
        apply_masks("model", masks)
