"""The script that exports a model in every way: its table, its files, what it takes and what it refuses."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import force_tf
from force_tf.cli.model_files import load_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

# isort: split
import image_data  # noqa: E402
import model_data  # noqa: E402


def run(folder, *flags):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, str(ROOT / "examples/export_edge.py"), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=280
    )


def dense_network(module=keras, shape=(8, 8, 1), units=10, activation=None, batch_size=None, dtype="float32"):
    layers = module.layers
    inputs = module.Input(shape, batch_size, dtype=dtype)
    stack = [layers.Flatten(), layers.Dense(units, activation, name="dense")]
    return module.Sequential([inputs, *stack])


def pruned_network(module=keras):
    model = dense_network(module)
    return force_tf.apply_masks(model, {"dense/kernel": np.random.default_rng(0).random((64, 10)) < 0.2})


def saved(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def test_a_pruned_classifier_in_three_kinds(tmp_path):
    data = image_data.load("digits")
    model = pruned_network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    ((x, y),) = data.train_batches(len(data.train_labels), seed=0)
    model.fit(x, y, epochs=20, verbose=0)
    accuracy = model.evaluate(data.test_batches(), verbose=0, return_dict=True)["accuracy"]
    assert accuracy > 0.5, "ten digits: guessing would give 0.1"
    model.save(tmp_path / "digits.keras")

    result = run(
        tmp_path, "--model=digits.keras", "--data=digits", "--variants=float32,float16,int8", "--runs=2", "--threads=2"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "nothing but the table belongs on the terminal"
    folder = tmp_path / "runs/export_digits"
    results = json.loads((folder / "results.json").read_text())
    assert results["keras_accuracy"] == pytest.approx(accuracy)
    assert "Phones' sparse kernels: none: " in result.stdout
    variants = {variant["name"]: variant for variant in results["variants"]}
    assert list(variants) == ["float32", "float32_dense", "float16", "float16_dense", "int8"]
    assert variants["float32"]["bytes"] < variants["float32_dense"]["bytes"] - 1000, "of 2560 for the kernel"
    assert variants["float32_dense"]["ratio"] == pytest.approx(1, abs=0.02)
    for name, variant in variants.items():
        size = (folder / f"{name}.tflite").stat().st_size
        assert variant["bytes"] == size
        (line,) = (line for line in result.stdout.splitlines() if line.split()[:1] == [name] and "ms" in line)
        assert f" {size:,} " in line
        assert f" {variant['accuracy']:.2%}" in line
        assert variant["latency_ms"] > 0
        assert variant["phone_multiply_adds"] == 64 * 10
        assert variant["failure"] is None
        # 450 images: in 8 bits some of them may change sides.
        assert variant["accuracy"] == pytest.approx(accuracy, abs=0.03 if name == "int8" else 1 / 450)
    with open(folder / "results.csv", newline="") as file:
        assert [(row["name"], float(row["max_difference"])) for row in csv.DictReader(file)] == [
            (name, variant["max_difference"]) for name, variant in variants.items()
        ]
    expected = {"results.json", "results.csv", "variants.png", *(f"{name}.tflite" for name in variants)}
    assert {path.name for path in folder.iterdir()} == expected
    assert (folder / "variants.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_cannot_be_made_does_not_keep_the_others(tmp_path):
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential([tf_keras.Input((4, 3)), layers.LSTM(5, name="lstm"), layers.Dense(2, name="dense")])
    model.save(tmp_path / "lstm.keras")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/int8.tflite").touch()

    result = run(tmp_path, "--model=lstm.keras", "--variants=int8,dynamic", "--runs=2", "--output_dir=out")
    assert result.returncode == 0, result.stderr
    assert "without --data, the ranges in int8 files are those of random inputs" in result.stdout
    assert "int8      cannot be made: Expected a model without recurrent layers" in result.stdout
    int8, dynamic = json.loads((tmp_path / "out/results.json").read_text())["variants"]
    assert "recurrent" in int8["failure"]
    assert int8["bytes"] is None
    assert not (tmp_path / "out/int8.tflite").exists(), "a file of an earlier run is not one of this model"
    assert dynamic["bytes"] == (tmp_path / "out/dynamic.tflite").stat().st_size
    assert dynamic["accuracy"] is None
    assert dynamic["max_difference"] < 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "export_edge.py --model=runs/quickstart/force.keras --data=digits"),
        # Each starts TensorFlow to say a sentence of absl's, or one that `test_files_that_hold_no_model` sees too.
        *(
            pytest.param(["--model=model.keras", flag], message, marks=pytest.mark.slow)
            for flag, message in (
                ("--variants=int4", "expected some of float32, float16, dynamic, int8, int8_io"),
                ("--data=digits", "Expected a .keras or .h5 file that holds a whole Keras model."),
            )
        ),
    ],
)
def test_refusals_are_a_sentence_and_leave_nothing_behind(tmp_path, flags, message):
    (tmp_path / "model.keras").write_text("no model")
    result = run(tmp_path, *flags)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == ["model.keras"]


@pytest.mark.parametrize("make", [dense_network, pruned_network])
@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_files_are_loaded_by_the_keras_that_saved_them(either_keras, make, ending, tmp_path):
    model = make(either_keras)
    model.save(tmp_path / f"model.{ending}")
    loaded = load_model(tmp_path / f"model.{ending}")
    assert isinstance(loaded, either_keras.Model)
    if make is pruned_network:
        np.testing.assert_array_equal(
            force_tf.get_masks(loaded)["dense/kernel"], force_tf.get_masks(model)["dense/kernel"]
        )
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6)


def test_the_keras_can_be_chosen(tmp_path):
    import tf_keras

    dense_network(tf_keras).save(tmp_path / "model.keras")
    assert isinstance(load_model(tmp_path / "model.keras", "keras"), keras.Model)


@keras.saving.register_keras_serializable("test_export_edge")
class Unknown(keras.layers.Dense):
    pass


def test_files_that_hold_no_model(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((2,)), Unknown(1)])
    model.save(tmp_path / "own.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "test_export_edge>Unknown")
    monkeypatch.delattr(sys.modules[__name__], "Unknown")
    with pytest.raises(ValueError, match=r"^Expected a whole model that keras can load without code .*own.keras'$"):
        load_model(tmp_path / "own.keras")
    with pytest.raises(ValueError, match=r"holds a whole Keras model.*model.weights.h5'$"):
        load_model(tmp_path / "model.weights.h5")
    with pytest.raises(FileNotFoundError, match=r"missing.keras', which is no file.$"):
        load_model(tmp_path / "missing.keras")


@pytest.mark.parametrize("shape", [(8, 8, 1), (64,), (8, 8), (4, 16), (1, 8, 8)], ids=str)
def test_digits_keep_their_pixels_in_every_shape_that_holds_them(shape):
    data = model_data.load(dense_network(shape=shape), "digits")
    digits = image_data.load("digits")
    pixels = np.asarray(digits.normalize(digits.test_images)).reshape(450, 64)
    assert data.compared[0].shape == (450, *shape)
    np.testing.assert_array_equal(data.compared[0].reshape(450, 64), pixels)
    batches = list(data.labelled.as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]).reshape(450, 64), pixels)
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches])[:, 0], digits.test_labels)
    assert data.calibration[0].shape == (500, *shape)


def test_digits_are_resized_and_coloured():
    data = model_data.load(dense_network(shape=(24, 24, 3)), "digits", limit=20)
    (images,) = data.compared
    assert images.shape == (20, 24, 24, 3)
    small = model_data.load(dense_network(), "digits", limit=20).compared[0]
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    # Three times as large, the middle of every block of pixels is the pixel that it comes from.
    np.testing.assert_allclose(images[:, 1::3, 1::3, :1], small, atol=1e-6)


@pytest.mark.parametrize("form", ["numbers", "column", "rows"])
def test_labels_come_in_three_forms(form, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 8, 8, 1)), rng.integers(0, 10, 30)
    labels = {"numbers": y, "column": y[:, None].astype("uint8"), "rows": np.eye(10)[y]}[form]
    data = model_data.load(dense_network(), saved(tmp_path, x=x, y=labels))
    ((batch, received),) = data.labelled.as_numpy_iterator()
    np.testing.assert_array_equal(batch, x.astype("float32"))
    np.testing.assert_array_equal(received, y[:, None])


def test_two_classes_on_one_output(either_keras, tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 8, 8, 1)).astype("float32")
    for activation, threshold in (("sigmoid", 0.5), (None, 0.0)):
        model = dense_network(either_keras, units=1, activation=activation)
        outputs = model.predict(x, verbose=0)
        data = model_data.load(model, saved(tmp_path, x=x, y=outputs[:, 0] > threshold))
        metric = model_data.accuracy_metric(model, data)
        ((_, y),) = data.labelled
        metric.update_state(y, outputs)
        assert metric.result() == 1.0, activation


def test_fixed_batches_are_whole(tmp_path):
    data = model_data.load(
        dense_network(batch_size=16), saved(tmp_path, x=np.zeros((40, 8, 8, 1)), y=np.arange(40) % 10)
    )
    assert [len(x) for x, _ in data.labelled] == [16, 16]


def test_random_inputs_follow_from_the_seed():
    tokens, numbers = keras.Input((5,), dtype="int32"), keras.Input((3,))
    vectors = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(tokens))
    model = keras.Model([tokens, numbers], keras.layers.Dense(2)(keras.layers.Concatenate()([vectors, numbers])))
    first, same, other = (model_data.load(model, None, seed=seed).calibration for seed in (1, 1, 2))
    assert [array.shape for array in first] == [(128, 5), (128, 3)]
    assert set(np.unique(first[0])) == set(range(7)), "every token, and no other"
    for array, again in zip(first, same):
        np.testing.assert_array_equal(array, again)
    assert not np.array_equal(first[1], other[1])


X = np.zeros((20, 8, 8, 1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((20, 9, 9, 1))}, r"samples of shape \(8, 8, 1\).*Received: float64 of shape \(20, 9, 9, 1\)$"),
        ({"x": np.full((20, 8, 8, 1), "a")}, r"Received: <U1 of shape"),
        ({"x": X[:0]}, "Expected 1 samples or more. Received: 0$"),
        ({"y": np.zeros(20, int)}, "with arrays `x` and `y`"),
        ({"x": X, "y": np.zeros(19, int)}, r"a label for each of 20 samples.*Received: `y` of shape \(19,\)$"),
        ({"x": X, "y": np.full(20, 10)}, "labels of 10 classes.*Received: numbers from 10 to 10$"),
        ({"x": X, "y": np.full(20, -1)}, "Received: numbers from -1 to -1$"),
        ({"x": X, "y": np.zeros(20)}, r"Received: float64 of shape \(20,\)$"),
        ({"x": X, "y": np.zeros((20, 9))}, r"Received: float64 of shape \(20, 9\)$"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        model_data.load(dense_network(), saved(tmp_path, **arrays))


def test_data_that_does_not_fit_the_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the 8x8x1 images of --data=digits.*inputs of shape \(65,\)$"):
        model_data.load(dense_network(shape=(65,)), "digits")
    with pytest.raises(ValueError, match=r"Received: int32$"):
        model_data.load(dense_network(dtype="int32"), "digits")
    with pytest.raises(ValueError, match=r"Received: --data=imagenet$"):
        model_data.load(dense_network(), "imagenet")
    with pytest.raises(FileNotFoundError, match=r"none.npz', which does not exist"):
        model_data.load(dense_network(), str(tmp_path / "none.npz"))
    inputs = keras.Input((8, 8, 1))
    with pytest.raises(ValueError, match=r"outputs of shapes \(None, 8, 8, 1\), \(None, 64\)$"):
        model_data.load(keras.Model(inputs, [keras.layers.ReLU()(inputs), keras.layers.Flatten()(inputs)]), "digits")
    with pytest.raises(ValueError, match=r"^Expected --data, since the shape .*\(None, None, 2\)$"):
        model_data.load(keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D()]), None)
