"""`apply_masks`, `get_masks` and `strip_pruning` on whole models of the legacy tf_keras, and their files."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from force_tf.layers import apply_masks, get_masks, is_pruned, rebuild, strip_pruning
from force_tf.masks import Masks
from force_tf.prunable import all_prunable_weights, prunable_weights

layers = tf_keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


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
    return tf_keras.Sequential([tf_keras.Input((5, 5, 1)), *stack, layers.Dense(2, name="logits")], name="net")


def sequential_by_input_shape():
    return tf_keras.Sequential([layers.Dense(3, name="a", input_shape=(4,)), layers.Dense(2, name="b")])


def sequential_without_input():
    model = tf_keras.Sequential([layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    model.build((None, 4))
    return model


def nested():
    inner_inputs = tf_keras.Input((4,))
    inner = tf_keras.Model(inner_inputs, layers.Dense(4, name="conv1")(inner_inputs), name="backbone")
    deep = tf_keras.Sequential([tf_keras.Input((4,)), inner, layers.Dense(4, name="conv1")], name="deep")
    inputs = tf_keras.Input((4,))
    return tf_keras.Model(inputs, layers.Dense(2, name="conv1")(tf.nn.relu(deep(inputs)) + 1.0))


def nested_with_unique_names():  # which HDF5 files ask for
    inner = tf_keras.Sequential([layers.Dense(4, name="first", input_shape=(4,))], name="backbone")
    inputs = tf_keras.Input((4,))
    return tf_keras.Model(inputs, layers.Dense(2, name="second")(inner(inputs)))


def slashes():  # which tf_keras lets names have
    inner = tf_keras.Sequential([layers.Dense(4, name="block/first", input_shape=(4,))], name="outer/backbone")
    inputs = tf_keras.Input((4,))
    return tf_keras.Model(inputs, layers.Dense(2, name="outer/second")(inner(inputs)))


def shared():
    left, right = tf_keras.Input((3,), name="left"), tf_keras.Input((3,), name="right")
    tower = layers.Dense(4, name="tower")
    merged = layers.Concatenate()([tower(left), tower(right)])
    return tf_keras.Model([left, right], layers.Dense(1, name="head")(merged))


def dictionaries():
    inputs = {"a": tf_keras.Input((3,), name="a"), "b": tf_keras.Input((2,), name="b")}
    x = tf.nn.relu(layers.Concatenate()([inputs["a"], inputs["b"]]))
    return tf_keras.Model(inputs, {"y": layers.Dense(2, name="y")(x), "z": layers.Dense(1, name="z")(x)})


def sequences():
    inputs = tf_keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x, training=False)
    x = layers.TimeDistributed(layers.Dense(3, name="dense"), name="each")(x)
    return tf_keras.Model(inputs, layers.GlobalAveragePooling1D()(x))


def attention():  # whose weights are made in its first call
    inputs = tf_keras.Input((4, 3))
    x = layers.MultiHeadAttention(1, 2, name="attention")(inputs, value=inputs)
    return tf_keras.Model(inputs, layers.Dense(2, name="logits")(x))


def two():
    return 2.0


def custom_layers():
    inputs = tf_keras.Input((4,))
    x = Block(name="block")(inputs)
    return tf_keras.Model(inputs, layers.Lambda(lambda t: two() * t)(x))


MODELS = [
    sequential,
    sequential_by_input_shape,
    sequential_without_input,
    nested,
    slashes,
    shared,
    dictionaries,
    sequences,
    custom_layers,
]


def masks_for(model, density=0.5, seed=0):
    rng = np.random.default_rng(seed)
    weights, left_out = prunable_weights(model)
    return Masks({weight.path: rng.random(weight.shape) < density for weight in weights}, left_out=left_out)


def inputs_for(model):
    rng = np.random.default_rng(0)

    def batch(tensor):
        shape = (3, *tensor.shape[1:])
        return rng.integers(1, 7, shape) if tensor.dtype.is_integer else rng.normal(size=shape).astype("float32")

    return tf.nest.map_structure(batch, model.input)


def with_product(model, masks):
    """Puts θ⊙m into a plain model, by hand."""
    for weight in all_prunable_weights(model):
        if weight.path in masks:
            weight.variable.assign(weight.variable.numpy() * masks[weight.path])
    return model


def assert_same(actual, expected):
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


def assert_pruned(model, masks, where=""):
    values = {weight.path: weight.variable.numpy() for weight in all_prunable_weights(model)}
    for path, mask in masks.items():
        revived = np.count_nonzero(values[path][~mask])
        assert revived == 0, f"{revived} of {np.count_nonzero(~mask)} pruned weights of {path} are not zero {where}"


@pytest.mark.parametrize("make", MODELS)
def test_apply_read_and_strip(make):
    model = make()
    masks, x = masks_for(model), inputs_for(model)
    before = [variable.numpy() for variable in model.variables]
    pruned = apply_masks(model, masks)
    plain = strip_pruning(pruned)

    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=f"{variable.name} of the original has changed")
    assert not {id(v) for v in pruned.variables} & {id(v) for v in [*model.variables, *plain.variables]}
    assert list(get_masks(pruned)) == list(masks), "paths or their order differ"
    assert get_masks(pruned) == masks
    assert (is_pruned(model), is_pruned(pruned), is_pruned(plain)) == (False, True, False)
    for copy in (pruned, plain):
        assert (copy.name, copy.output_names) == (model.name, model.output_names)
        assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
        assert type(copy) is type(model)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
    assert [v.shape for v in plain.variables] == [v.shape for v in model.variables]
    assert_pruned(pruned, masks)
    expected = with_product(model, masks)(x)
    assert_same(pruned(x), expected)
    assert_same(plain(x), expected)


def test_flags_policies_and_state_are_carried_over():
    inputs = tf_keras.Input((4,))
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(20, 4)))
    x = layers.Dense(3, name="half", dtype="mixed_bfloat16")(normalization(inputs))
    model = tf_keras.Model(inputs, layers.Dense(2, name="frozen")(layers.BatchNormalization(name="bn")(x)))
    masks, x = masks_for(model), inputs_for(model)
    model(x, training=True)  # moves the statistics
    model.get_layer("bn").trainable = False
    pruned = apply_masks(model, masks)
    pruned.get_layer("frozen").trainable = False
    plain = strip_pruning(pruned)
    assert pruned.get_layer("half").compute_dtype == "bfloat16"
    assert pruned.get_layer("half").layer.kernel.dtype == "float32"
    assert [layer.name for layer in pruned.layers if not layer.trainable] == ["bn", "frozen"]
    assert [layer.name for layer in plain.layers if not layer.trainable] == ["bn", "frozen"]
    assert [v.name for v in plain.trainable_variables] == ["half/kernel:0", "half/bias:0"]
    assert_same(pruned(x), with_product(model, masks)(x))


class HalvingSchedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.5 / (1.0 + tf.cast(step, "float32"))

    def get_config(self):
        return {}


def distance(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true - y_pred), axis=-1)


@pytest.mark.parametrize("optimizers", [tf_keras.optimizers, tf_keras.optimizers.legacy], ids=["new", "legacy"])
def test_compile_configuration_is_carried_over(optimizers):
    model = dictionaries()
    model.compile(
        optimizers.SGD(HalvingSchedule(), momentum=0.8, clipnorm=1.0),
        loss={"y": distance, "z": tf_keras.losses.Huber(0.3)},
        loss_weights={"y": 1.0, "z": 0.2},
        metrics={"y": [tf_keras.metrics.MeanAbsoluteError(name="far"), distance], "z": None},
        weighted_metrics={"z": ["mse"]},
        steps_per_execution=2,
    )
    x = inputs_for(model)
    y = {"y": np.ones((3, 2)), "z": np.ones((3, 1))}
    masks = masks_for(model)
    pruned = apply_masks(model, masks)
    for copy in (pruned, strip_pruning(pruned)):
        assert copy.optimizer is not model.optimizer
        assert type(copy.optimizer) is optimizers.SGD
        config = copy.optimizer.get_config()
        assert (config["momentum"], config["clipnorm"]) == (0.8, 1.0)
        assert int(copy._steps_per_execution) == 2
        results = copy.evaluate(x, y, verbose=0, return_dict=True)
        expected = with_product(model, masks).evaluate(x, y, verbose=0, return_dict=True)
        assert results == pytest.approx(expected)
        before = copy.trainable_variables[0].numpy()
        copy.fit(x, y, verbose=0)
        assert (copy.trainable_variables[0].numpy() != before).any()
        assert not {id(metric) for metric in copy.metrics} & {id(metric) for metric in model.metrics}


def test_weights_excluded_from_decay_stay_excluded():
    model = sequential_by_input_shape()
    model.compile(tf_keras.optimizers.AdamW(0.1), "mse", jit_compile=True)
    model.optimizer.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
    pruned = apply_masks(model, masks_for(model))
    assert pruned.jit_compile
    decayed = [v.name for v in pruned.trainable_variables if pruned.optimizer._use_weight_decay(v)]
    assert decayed == ["a/bias:0", "b/kernel:0", "b/bias:0"]


def test_copies_compute_in_another_precision():
    model = sequences()
    x = inputs_for(model)
    copy = rebuild(model, precision="float64")
    assert {variable.dtype.name for variable in copy.variables} == {"float64"}
    assert copy(x).dtype == tf.float64
    assert_same(copy(x), model(x))


def save_and_load(model, path):
    model.save(path)
    return tf_keras.models.load_model(path)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
@pytest.mark.parametrize("make", [sequential, nested_with_unique_names, slashes, attention])
def test_files_hold_masks_and_zeros(make, name, tmp_path):
    model = make()
    masks, x = masks_for(model), inputs_for(model)
    pruned = apply_masks(model, masks)
    loaded = save_and_load(pruned, tmp_path / name)
    assert get_masks(loaded) == masks
    assert_pruned(loaded, masks, f"in {name}")
    assert_same(loaded(x), pruned(x))


def test_files_of_unregistered_layers_load_with_custom_objects(tmp_path):
    model = custom_layers()
    masks = masks_for(model)
    apply_masks(model, masks).save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras", custom_objects={"Block": Block}, safe_mode=False)
    assert get_masks(loaded) == masks


@pytest.mark.parametrize("name", ["pruned.weights.h5", "pruned.h5", "checkpoint"])
def test_weight_files_carry_the_masks(name, tmp_path):
    model = attention()
    pruned = apply_masks(model, masks_for(model, seed=1))
    pruned.save_weights(str(tmp_path / name))
    other = apply_masks(attention(), masks_for(model, seed=2))
    other.load_weights(str(tmp_path / name))
    assert get_masks(other) == get_masks(pruned)
    assert_pruned(other, get_masks(pruned))
    assert_same(other(inputs_for(model)), pruned(inputs_for(model)))


def test_checkpoints_carry_the_masks(tmp_path):
    model = sequential()
    pruned = apply_masks(model, masks_for(model, seed=1))
    path = tf.train.Checkpoint(model=pruned).write(str(tmp_path / "checkpoint"))
    other = apply_masks(sequential(), masks_for(model, seed=2))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    assert get_masks(other) == get_masks(pruned)
    assert_same(other(inputs_for(model)), pruned(inputs_for(model)))


def test_get_weights_has_the_masks():
    model = sequential_by_input_shape()
    masks = masks_for(model)
    pruned, other = (apply_masks(model, masks_for(model, seed=seed)) for seed in (0, 1))
    other.set_weights(pruned.get_weights())
    assert get_masks(other) == masks
    layer = pruned.get_layer("a")
    values = layer.get_weights()
    assert any(np.array_equal(value, masks["a/kernel"]) for value in values)
    values[0] = np.ones((4, 3))
    layer.set_weights(values)
    np.testing.assert_array_equal(layer.get_weights()[0] != 0, masks["a/kernel"])


FRESH_PROCESS = """
import sys, numpy as np, tf_keras
import force_tf.layers.tf_keras
x = np.load(sys.argv[2])
print(abs(tf_keras.models.load_model(sys.argv[1])(x).numpy() - np.load(sys.argv[3])).max())
"""


def test_files_load_in_a_fresh_process_without_custom_objects(tmp_path):
    model = sequential()
    pruned, x = apply_masks(model, masks_for(model)), inputs_for(model)
    pruned.save(tmp_path / "pruned.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", pruned(x))
    paths = [str(tmp_path / name) for name in ("pruned.keras", "x.npy", "y.npy")]
    done = subprocess.run([sys.executable, "-c", FRESH_PROCESS, *paths], check=True, capture_output=True, timeout=120)
    assert float(done.stdout) < 1e-5


WITHOUT_TFMOT = """
import os, sys
sys.modules["tensorflow_model_optimization"] = None  # what is not installed
import force_tf, tf_keras, numpy as np
model = tf_keras.Sequential([tf_keras.layers.Dense(2, name="dense", input_shape=(3,))])
try:
    force_tf.apply_masks(model, {"dense/kernel": np.ones((3, 2), bool)})
except ImportError as error:
    print(error)
"""


def test_what_to_install_is_said_when_tfmot_is_missing():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TFMOT], check=True, capture_output=True, text=True, timeout=120
    )
    assert "run `pip install 'force_tf[tfmot]'`. Received: " in done.stdout
    assert done.stdout.count("\n") == 1, done.stdout


WRAPPED = """
import os, sys
{setting}
import force_tf, numpy as np, tensorflow as tf, tf_keras
model = tf_keras.Sequential([tf_keras.layers.Dense(2, name="dense", input_shape=(3,))])
force_tf.apply_masks(model, {{"dense/kernel": np.ones((3, 2), bool)}})
assert "tensorflow_model_optimization" in sys.modules
print(os.environ.get("TF_USE_LEGACY_KERAS"), tf.keras.layers.Dense.__module__.partition(".")[0])
"""


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("os.environ.pop('TF_USE_LEGACY_KERAS', None)", "None keras"),
        ("os.environ['TF_USE_LEGACY_KERAS'] = '1'", "1 tf_keras"),
    ],
    ids=["keras_3", "legacy"],
)
def test_importing_tfmot_changes_neither_the_environment_nor_which_keras_tensorflow_has(setting, expected):
    script = WRAPPED.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == expected


def test_models_in_the_wrong_state_are_refused():
    model = sequential()
    with pytest.raises(ValueError, match=r"strip_pruning first\. Received: 'net'"):
        apply_masks(apply_masks(model, masks_for(model)), masks_for(model))
    with pytest.raises(ValueError, match=r"Received: 'net', which has no masks"):
        get_masks(model)


def test_search_prune_train_strip_and_export(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 5, 5, 1)).astype("float32"), rng.integers(2, size=64)
    model = sequential()
    model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned = force_tf.PruneAtInit("force", sparsity=0.5, steps=3).prune(model, data, verbose=0)
    pruned.fit(*data, verbose=0)
    masks = get_masks(pruned)
    assert sum(np.count_nonzero(mask) for mask in masks.values()) == round(0.5 * sum(m.size for m in masks.values()))
    assert_pruned(pruned, masks, "after fit")
    path = os.path.join(tmp_path, "model.tflite")
    force_tf.export_tflite(strip_pruning(pruned), path)
    assert os.path.getsize(path) > 0
