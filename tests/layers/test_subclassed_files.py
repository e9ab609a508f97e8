"""Files of models that are wrapped in place, of both Kerases: they hold the masks, and zeros."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from force_tf.layers import apply_masks, get_masks, strip_pruning
from helpers.subclassed_models import X, Y, assert_zeros, built, classes_of, masks_for, two_layers, variables_by_path


def test_keras_files_hold_the_masks_also_in_the_middle_of_training(either_keras, tmp_path):
    custom = vars(classes_of(either_keras))
    model = built(classes_of(either_keras).Everything)
    masks = masks_for(model)
    apply_masks(model, masks).compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    checkpoint = either_keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.keras"), save_freq=1)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[checkpoint])
    assert get_masks(model) == masks, "saving has changed the model"
    loaded = either_keras.saving.load_model(tmp_path / "2.keras", custom)  # its layers had other names when it was made
    assert get_masks(loaded) == masks
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
    loaded.fit(X, Y, verbose=0)
    assert_zeros(loaded, masks)
    plain = strip_pruning(loaded)
    plain.save(tmp_path / "plain.keras")
    everything = classes_of(either_keras).Everything
    assert type(either_keras.saving.load_model(tmp_path / "plain.keras", custom)) is everything


FRESH_PROCESS = """
import sys, numpy as np, {module} as keras
{imports}

@keras.saving.register_keras_serializable()
class Small(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2, name="dense")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)

if sys.argv[2] == "save":
    import force_tf
    model = Small()
    model(np.ones((1, 3)))
    force_tf.apply_masks(model, {{"dense/kernel": np.eye(3, 2, dtype=bool)}}).save(sys.argv[1])
else:
    model = keras.saving.load_model(sys.argv[1])
print((model.dense.layer.kernel.numpy() != 0).astype(int).tolist())
"""


def test_keras_files_load_in_another_process(either_keras, tmp_path):
    # tf_keras finds force_tf by itself; Keras 3 asks for an import.
    imports = "import force_tf" if either_keras is keras else ""
    script = FRESH_PROCESS.format(module=either_keras.__name__, imports=imports)
    for task in ("save", "load"):
        command = [sys.executable, "-c", script, str(tmp_path / "small.keras"), task]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "[[1, 0], [0, 1], [0, 0]]"


FORMATS = [(keras, ".weights.h5"), (tf_keras, ".weights.h5"), (tf_keras, ".h5"), (tf_keras, "")]


@pytest.mark.parametrize(("module", "suffix"), FORMATS, ids=[f"{m.__name__}{suffix}" for m, suffix in FORMATS])
def test_weight_files(module, suffix, tmp_path):
    masked_file, dense_file = (str(tmp_path / f"{name}{suffix}") for name in ("masked", "dense"))
    everything = classes_of(module).Everything
    model = built(everything)
    model.save_weights(dense_file)
    kernel = model.first.kernel.numpy()
    masks = masks_for(model)
    apply_masks(model, masks).save_weights(masked_file)
    if module is tf_keras and suffix == ".weights.h5":
        with pytest.raises(ValueError, match="Expected a file with masks"):
            model.load_weights(dense_file)

    other = built(everything)
    apply_masks(other, masks_for(other, seed=1))
    other.load_weights(masked_file)
    np.testing.assert_allclose(other(X), model(X), rtol=1e-5, atol=1e-6)
    for actual, expected in zip(get_masks(other).values(), masks.values(), strict=True):
        np.testing.assert_array_equal(actual, expected)

    strip_pruning(model).load_weights(dense_file)
    np.testing.assert_array_equal(model.first.kernel, kernel)


def test_checkpoints_of_tensorflow(either_keras, tmp_path):
    dense, masked = str(tmp_path / "dense"), str(tmp_path / "masked")
    model = built(classes_of(either_keras).Everything)
    kernel = model.first.kernel.numpy()
    tf.train.Checkpoint(model).write(dense)
    masks = masks_for(model)
    apply_masks(model, masks)

    first = variables_by_path(model)[next(iter(masks))]
    first.assign(tf.zeros_like(kernel))
    tf.train.Checkpoint(model).read(dense).expect_partial()
    np.testing.assert_array_equal(first.numpy(), kernel * next(iter(masks.values())))
    first.assign(tf.ones_like(kernel))
    tf.train.Checkpoint(model).write(masked)
    attribute = "_kernel" if either_keras is keras else "kernel"
    value = tf.train.load_checkpoint(masked).get_tensor(f"first/layer/{attribute}/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_array_equal(value, next(iter(masks.values())))

    strip_pruning(model)
    model.first.kernel.assign(tf.zeros_like(kernel))
    tf.train.Checkpoint(model).read(dense).assert_existing_objects_matched()
    np.testing.assert_array_equal(model.first.kernel, kernel)


def test_saved_models_of_tf_keras(tmp_path):
    two = two_layers(tf_keras)
    model = built(two)
    masks = masks_for(model)
    apply_masks(model, masks).compile("sgd", "mse")
    model.hidden.layer.kernel.assign(tf.ones((4, 8)))
    model.save(tmp_path / "saved")
    kernel = tf.saved_model.load(tmp_path / "saved").hidden.layer.kernel
    np.testing.assert_array_equal(kernel, masks["hidden/kernel"])
    loaded = tf_keras.models.load_model(tmp_path / "saved", {two.__name__: two})
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-5, atol=1e-6)
    assert get_masks(loaded) == get_masks(model) == masks
    loaded.fit(X, Y, verbose=0)
    assert_zeros(loaded, masks)


def test_files_of_models_that_do_not_build_their_layers_are_refused(either_keras, tmp_path):
    class LateLayers(two_layers(either_keras)):
        def build(self, input_shape):
            pass

    model = built(LateLayers)
    apply_masks(model, masks_for(model)).save(tmp_path / "late.keras")
    with pytest.raises(ValueError, match=r"^Expected a model that makes and builds .* of class LateLayers"):
        either_keras.saving.load_model(tmp_path / "late.keras", {"LateLayers": LateLayers})
