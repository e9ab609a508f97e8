"""What only models of the legacy tf_keras have: forms, kinds of files, and tfmot behind their wrappers."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from force_tf.layers import apply_masks, get_masks, strip_pruning
from force_tf.models.rebuild import rebuild
from helpers.model_forms import (
    assert_holds_zeros,
    assert_same,
    attention,
    check_apply_read_and_strip,
    inputs_for,
    sequences,
    sequential,
)
from helpers.subclassed_models import masks_for

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


def sequential_by_input_shape(keras):
    return keras.Sequential([keras.layers.Dense(3, name="a", input_shape=(4,)), keras.layers.Dense(2, name="b")])


def nested_with_unique_names(keras):  # which HDF5 files ask for
    inner = keras.Sequential([keras.layers.Dense(4, name="first", input_shape=(4,))], name="backbone")
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2, name="second")(inner(inputs)))


def slashes(keras):  # which tf_keras lets names have
    first = keras.layers.Dense(4, name="block/first", input_shape=(4,))
    inner = keras.Sequential([first], name="outer/backbone")
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2, name="outer/second")(inner(inputs)))


@pytest.mark.parametrize("make", [sequential_by_input_shape, slashes])
def test_apply_read_and_strip(make):
    check_apply_read_and_strip(make(tf_keras))


def test_copies_compute_in_another_precision():
    model = sequences(tf_keras)
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
    model = make(tf_keras)
    masks, x = masks_for(model), inputs_for(model)
    pruned = apply_masks(model, masks)
    loaded = save_and_load(pruned, tmp_path / name)
    assert get_masks(loaded) == masks
    assert_holds_zeros(loaded, masks, f"in {name}")
    assert_same(loaded(x), pruned(x))


def test_checkpoints_carry_the_masks(tmp_path):
    model = sequential(tf_keras)
    pruned = apply_masks(model, masks_for(model, seed=1))
    path = tf.train.Checkpoint(model=pruned).write(str(tmp_path / "checkpoint"))
    other = apply_masks(sequential(tf_keras), masks_for(model, seed=2))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    assert get_masks(other) == get_masks(pruned)
    assert_same(other(inputs_for(model)), pruned(inputs_for(model)))


def test_get_weights_has_the_masks():
    model = sequential_by_input_shape(tf_keras)
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


def test_search_prune_train_strip_and_export(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 5, 5, 1)).astype("float32"), rng.integers(2, size=64)
    model = sequential(tf_keras)
    model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned = force_tf.PruneAtInit("force", sparsity=0.5, steps=3).prune(model, data, verbose=0)
    pruned.fit(*data, verbose=0)
    masks = get_masks(pruned)
    assert sum(np.count_nonzero(mask) for mask in masks.values()) == round(0.5 * sum(m.size for m in masks.values()))
    assert_holds_zeros(pruned, masks, "after fit")
    path = os.path.join(tmp_path, "model.tflite")
    force_tf.export_tflite(strip_pruning(pruned), path)
    assert os.path.getsize(path) > 0
