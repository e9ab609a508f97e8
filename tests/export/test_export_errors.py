"""TFLite export of what cannot be exported: one sentence, and no file."""

import contextlib
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from force_tf.export import export_tflite
from force_tf.support.files import atomic_file


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3)])


def _refused(error, pattern, *arguments, **options):
    with pytest.raises(error, match=pattern) as caught:
        export_tflite(*arguments, **options)
    assert str(caught.value).startswith("Expected")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "error", "received"),
    [
        ("model.keras", TypeError, "Received: str"),
        (keras.Sequential([layers.Dense(3)], name="unbuilt"), ValueError, "Received: the unbuilt model 'unbuilt'"),
    ],
)
def test_what_is_no_built_keras_model(broken, error, received, tmp_path):
    _refused(error, received, broken, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"sparse": "always"}, "Received: sparse='always'"),
        ({"sparse": 1}, "Received: sparse=1"),
        ({"verify_data": np.zeros((2, 5))}, r"Received: arrays of shapes \(2, 5\)"),
        ({"verify_data": np.zeros((0, 4))}, r"Received: arrays of shapes \(0, 4\)"),
        ({"verify_data": [np.zeros((2, 4)), np.zeros((2, 4))]}, r"Received: arrays of shapes \(2, 4\), \(2, 4\)"),
    ],
)
def test_options_that_do_not_fit(options, received, model, tmp_path):
    _refused(ValueError, received, model, tmp_path / "model.tflite", **options)
    assert os.listdir(tmp_path) == []


def test_varying_shapes_need_samples(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 3), layers.GlobalMaxPooling1D()])
    _refused(ValueError, "Expected `verify_data`.*Received: verify_data=None", model, tmp_path / "model.tflite")
    report = export_tflite(model, tmp_path / "model.tflite", verify_data=np.ones((2, 9, 3)), verbose=False)
    assert report.samples == 2


def test_a_folder_that_is_missing_or_a_path_that_is_a_folder(model, tmp_path):
    _refused(OSError, "Expected a path in a folder that exists", model, tmp_path / "missing" / "model.tflite")
    _refused(OSError, "Expected the path of a file", model, tmp_path)


@contextlib.contextmanager
def _files_of_at_most(size):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")
    refused = pytest.raises(OSError, match=r"Expected space enough.*Received: '.*model.tflite'")
    with _files_of_at_most(1000), refused, atomic_file(path) as file:
        file.write(bytes(2000))
    model = keras.Sequential([keras.Input((400,)), layers.Dense(400)])
    # TensorFlow's converter writes a copy of the model before there is a file.
    with _files_of_at_most(300_000), pytest.raises(OSError, match=r"temporary folder with space enough.*Received: '/"):
        export_tflite(model, path, verbose=False)
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert path.read_bytes() == b"an older file"


@pytest.mark.skipif(os.name != "posix" or not os.geteuid(), reason="root may write everywhere")
def test_a_folder_that_is_read_only(model, tmp_path):
    tmp_path.chmod(0o500)
    _refused(OSError, "Expected a path in a folder that exists and can be written", model, tmp_path / "model.tflite")


def test_the_layer_that_failed_is_named_and_not_one_that_needs_a_fixed_batch_size(either_keras, tmp_path):
    class Erfc(either_keras.layers.Layer):
        def call(self, x):
            return tf.math.erfc(x)

    head = either_keras.Sequential([either_keras.Input((4,)), Erfc(name="odd")], name="head")
    model = either_keras.Sequential([either_keras.Input((6, 4)), either_keras.layers.GRU(4, name="gru"), head])
    _refused(ValueError, r"Received: the layer 'odd' \(Erfc\).*needs tf.Erfc", model, tmp_path / "model.tflite")


def test_an_operation_that_tflite_lacks_is_named_with_its_layer(tmp_path, capfd):
    inverse = layers.Lambda(lambda x: keras.ops.linalg.inv(keras.ops.reshape(x, (-1, 2, 2))), name="inverse")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), inverse])
    model.layers[0].kernel.assign(np.eye(4))
    (tmp_path / "model.tflite").write_bytes(b"an older file")
    samples = np.array([[1, 0, 0, 1]], "float32")
    _refused(
        ValueError, r"'inverse' \(Lambda\).*tf.MatrixInverse", model, tmp_path / "model.tflite", verify_data=samples
    )
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert (tmp_path / "model.tflite").read_bytes() == b"an older file"
    printed = capfd.readouterr()
    assert "1/3" in printed.out, "the bar until then"
    assert (printed.out.count("\n"), printed.err) == (0, "")
