"""`apply_masks`, `get_masks` and `strip_pruning` on whole models of every form."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from force_tf.layers import MaskedLayer, apply_masks, get_masks, strip_pruning
from force_tf.masks import Masks
from helpers.model_forms import (
    FORMS,
    assert_holds_zeros,
    assert_same,
    attention,
    block_class,
    check_apply_read_and_strip,
    custom_layers,
    dictionaries,
    inputs_for,
    nested,
    raised_tanh,
    sequences,
    sequential,
    sequential_without_input,
    shared,
    with_product,
)
from helpers.subclassed_models import masks_for

layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* looks like it has unbuilt state")


@pytest.mark.parametrize("make", FORMS)
def test_apply_read_and_strip(make, either_keras):
    check_apply_read_and_strip(make(either_keras))


def test_paths_reach_into_models_and_layers():
    assert list(get_masks(apply_masks(nested(keras), masks_for(nested(keras))))) == [
        "deep/backbone/conv1/kernel",
        "deep/conv1/kernel",
        "conv1/kernel",
    ]
    model = sequences(keras)
    pruned = apply_masks(model, masks_for(model))
    assert "both/forward_lstm/lstm_cell/recurrent_kernel" in get_masks(pruned)
    assert get_masks(pruned).left_out["embedding/embeddings"] == "not masked"
    assert isinstance(pruned.get_layer("attention"), MaskedLayer)
    assert not isinstance(pruned.get_layer("embedding"), MaskedLayer)


def test_weights_that_are_not_pruned_by_default_may_have_a_mask():
    model = sequences(keras)
    masks = {**masks_for(model), "embedding/embeddings": np.eye(7, 4, dtype=bool)}
    pruned = apply_masks(model, masks)
    np.testing.assert_array_equal(pruned.get_layer("embedding").layer.embeddings.numpy() != 0, np.eye(7, 4))


def test_what_is_counted_where(either_keras):
    model = either_keras.Sequential(
        [either_keras.Input((5,)), either_keras.layers.Dense(3), either_keras.layers.Dense(2)]
    )
    pruned = apply_masks(model, masks_for(model))
    kernels, biases = 5 * 3 + 3 * 2, 3 + 2
    for_tfmot = 0 if either_keras is keras else 2 * 2  # a threshold and a step of each layer
    assert pruned.count_params() == 2 * kernels + biases + for_tfmot
    assert get_masks(pruned).total == kernels
    assert sum(int(np.prod(variable.shape)) for variable in pruned.trainable_variables) == kernels + biases
    assert strip_pruning(pruned).count_params() == kernels + biases


def test_layers_used_twice_have_one_wrapper():
    model = shared(keras)
    pruned = apply_masks(model, masks_for(model))
    assert len(pruned.trainable_variables) == len(model.trainable_variables)
    assert sum(isinstance(layer, MaskedLayer) for layer in pruned.layers) == 2


def test_flags_policies_and_state_are_carried_over(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((4,))
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(20, 4)))
    x = layers.Dense(3, name="half", dtype="mixed_bfloat16")(normalization(inputs))
    model = either_keras.Model(inputs, layers.Dense(2, name="frozen")(layers.BatchNormalization(name="bn")(x)))
    masks, x = masks_for(model), inputs_for(model)
    model(x, training=True)  # moves the statistics
    model.get_layer("bn").trainable = False
    pruned = apply_masks(model, masks)
    pruned.get_layer("frozen").trainable = False
    plain = strip_pruning(pruned)
    half = plain.get_layer("half")
    assert pruned.get_layer("half").compute_dtype == half.compute_dtype == "bfloat16"
    assert pruned.get_layer("half").layer.kernel.dtype == "float32"
    for copy in (pruned, plain):
        assert [layer.name for layer in copy.layers if not layer.trainable] == ["bn", "frozen"]
    assert [id(v) for v in plain.trainable_variables] == [id(half.kernel), id(half.bias)]
    assert get_masks(pruned) == masks
    for training in (False, True):
        expected = with_product(model, masks)(x, training=training)
        assert_same(pruned(x, training=training), expected)
        assert_same(plain(x, training=training), expected)


def test_seeds_are_carried_over():
    inputs = keras.Input((40,))
    model = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Dropout(0.5, seed=7)(inputs)))
    masks, x = masks_for(model), inputs_for(model)
    model(x, training=True)  # moves the seed
    pruned = apply_masks(model, masks)
    plain = strip_pruning(pruned)
    expected = with_product(model, masks)(x, training=True)
    assert_same(pruned(x, training=True), expected)
    assert_same(plain(x, training=True), expected)


def distance(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true - y_pred), axis=-1)


def halving(module):
    class HalvingSchedule(module.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5 / (1.0 + tf.cast(step, "float32"))

        def get_config(self):
            return {}

    return HalvingSchedule()


@pytest.mark.parametrize(
    ("module", "optimizers"),
    [(keras, keras.optimizers), (tf_keras, tf_keras.optimizers), (tf_keras, tf_keras.optimizers.legacy)],
    ids=["keras", "tf_keras", "tf_keras_legacy"],
)
def test_compile_configuration_is_carried_over(module, optimizers):
    model = dictionaries(module)
    model.compile(
        optimizers.SGD(halving(module), momentum=0.8, clipnorm=1.0),
        loss={"y": distance, "z": module.losses.Huber(0.3)},
        loss_weights={"y": 1.0, "z": 0.2},
        metrics={"y": [module.metrics.MeanAbsoluteError(name="far"), distance], "z": None},
        weighted_metrics={"z": ["mse"]},
        steps_per_execution=2,
        jit_compile=True,
    )
    x = inputs_for(model)
    y = {"y": np.ones((3, 2)), "z": np.ones((3, 1))}
    masks = masks_for(model)
    pruned = apply_masks(model, masks)
    for copy in (pruned, strip_pruning(pruned)):
        assert copy.optimizer is not model.optimizer
        assert type(copy.optimizer) is optimizers.SGD
        config, rate = copy.optimizer.get_config(), copy.optimizer.learning_rate
        rate = float(rate(0) if callable(rate) else rate)  # the legacy optimizers have the schedule there
        assert (config["momentum"], config["clipnorm"], rate) == (0.8, 1.0, 0.5)
        steps = copy.steps_per_execution if module is keras else copy._steps_per_execution
        assert (int(steps), copy.jit_compile, copy.run_eagerly) == (2, True, False)
        results = copy.evaluate(x, y, verbose=0, return_dict=True)
        expected = with_product(model, masks).evaluate(x, y, verbose=0, return_dict=True)
        assert results == pytest.approx(expected)
        assert not {id(metric) for metric in copy.metrics} & {id(metric) for metric in model.metrics}
        before = copy.trainable_variables[0].numpy()
        assert np.isfinite(copy.fit(x, y, verbose=0).history["loss"]).all()
        assert (copy.trainable_variables[0].numpy() != before).any()


def test_weights_excluded_from_decay_stay_excluded(either_keras):
    model = sequential_without_input(either_keras)
    model.compile(either_keras.optimizers.AdamW(0.1), "mse")
    model.optimizer.exclude_from_weight_decay(var_list=[model.layers[0].kernel], var_names=["bias"])
    pruned = apply_masks(model, masks_for(model))
    for copy in (pruned, strip_pruning(pruned)):
        decayed = [v for v in copy.trainable_variables if copy.optimizer._use_weight_decay(v)]
        last = copy.get_layer("b")
        assert [id(v) for v in decayed] == [id(getattr(last, "layer", last).kernel)]


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
import sys, numpy as np, {module} as keras
import {wrappers}, force_tf
model = keras.saving.load_model(sys.argv[1])
masks = force_tf.get_masks(model)
np.savez(sys.argv[2], output=model(np.load(sys.argv[3])), **{{k.replace("/", "|"): m for k, m in masks.items()}})
"""


def test_files_load_in_a_fresh_process_without_custom_objects(either_keras, tmp_path):
    inputs = either_keras.Input((5, 4))
    x = either_keras.layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = either_keras.layers.GRU(3, name="gru")(x)
    model = either_keras.Model(inputs, either_keras.layers.Dense(2, name="logits")(x))
    pruned = apply_masks(model, masks_for(model))
    batch = inputs_for(model)
    pruned.save(tmp_path / "pruned.keras")
    np.save(tmp_path / "x.npy", batch)
    paths = [str(tmp_path / name) for name in ("pruned.keras", "read.npz", "x.npy")]
    wrappers = "force_tf.layers" if either_keras is keras else "force_tf.layers.tf_keras"
    script = FRESH_PROCESS.format(module=either_keras.__name__, wrappers=wrappers)
    subprocess.run([sys.executable, "-c", script, *paths], check=True, timeout=120)
    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_allclose(read["output"], pruned(batch), rtol=1e-5)
        assert Masks({k.replace("|", "/"): read[k] for k in read.files if k != "output"}) == get_masks(pruned)


@pytest.mark.parametrize(
    ("either_keras", "make", "name"),
    [
        ("keras", sequences, "pruned.weights.h5"),
        ("tf_keras", attention, "pruned.weights.h5"),
        ("tf_keras", attention, "pruned.h5"),
        ("tf_keras", attention, "checkpoint"),
    ],
    indirect=["either_keras"],
)
def test_weight_files_carry_the_masks(either_keras, make, name, tmp_path):
    model = make(either_keras)
    pruned = apply_masks(model, masks_for(model, seed=1))
    pruned.save_weights(str(tmp_path / name))
    other = apply_masks(make(either_keras), masks_for(model, seed=2))
    other.load_weights(str(tmp_path / name))
    assert get_masks(other) == get_masks(pruned)
    assert_holds_zeros(other, get_masks(pruned), "after loading")
    x = inputs_for(model)
    assert_same(other(x), pruned(x))


@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer")  # by Keras, for such layers in any file
def test_files_of_unregistered_layers_load_with_custom_objects(either_keras, tmp_path):
    model = custom_layers(either_keras)
    masks = masks_for(model)
    apply_masks(model, masks).save(tmp_path / "pruned.keras")
    loaded = either_keras.saving.load_model(
        tmp_path / "pruned.keras", {"Block": block_class(either_keras), "raised_tanh": raised_tanh}, safe_mode=False
    )
    assert get_masks(loaded) == masks


def test_wrapped_models_convert_to_tflite_and_saved_model(tmp_path):
    model = sequential(keras)
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


def test_models_and_masks_that_do_not_fit_are_refused(either_keras):
    model = sequential(either_keras)
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
        with pytest.raises(
            ValueError, match=r"Expected a model wrapped by apply_masks\. Received: 'net', which has no masks"
        ):
            function(model)
    with pytest.raises(TypeError, match=r"Expected a model of keras or tf_keras"):
        apply_masks("model", masks)
