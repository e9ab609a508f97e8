"""`evaluate_tflite`: what Keras's own `evaluate` says of the model, from every form of data and kind of file."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

import force_tf
from force_tf import evaluate_tflite

_RNG = np.random.default_rng(0)
_X = _RNG.standard_normal((70, 5)).astype("float32")
_CLASSES = (_X[:, :3] + 0.3 * _RNG.standard_normal((70, 3))).argmax(axis=1)
_NUMBERS = _X[:, :1] - _X[:, 1:2] + 0.1
_WEIGHTS = _RNG.random(70)


def _classifier(keras=keras):
    layers = keras.layers
    return keras.Sequential([keras.Input((5,)), layers.Dense(16, "relu"), layers.Dense(3, "softmax")])


def _trained(model, targets, **options):
    model.compile("adam", **options)
    model.fit(_X, targets, epochs=3, verbose=0)
    return model


def _same(received, expected):
    """The values of Keras, but for the rounding of the TFLite runtime."""
    assert set(received) == set(expected)
    for name, value in expected.items():
        assert received[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


@pytest.fixture
def export(path):
    """Writes a model to the path."""
    return lambda model: force_tf.export_tflite(model, path, verbose=False)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A model of Keras 3, and its file."""
    model = _trained(_classifier(), _CLASSES, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    path = tmp_path_factory.mktemp("classifier") / "model.tflite"
    force_tf.export_tflite(model, path, verbose=False)
    return model, path


def test_classifier(either_keras, path, export):
    def options():
        top = either_keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")
        loss = either_keras.losses.SparseCategoricalCrossentropy()
        return {"metrics": ["accuracy", top], "loss": loss, "weighted_metrics": ["accuracy"]}

    model = _trained(_classifier(either_keras), _CLASSES, **options())
    expected = model.evaluate(_X, _CLASSES, sample_weight=_WEIGHTS, verbose=0, return_dict=True)
    export(model)
    _same(evaluate_tflite(path, (_X, _CLASSES, _WEIGHTS), verbose=0, **options()), expected)


def test_area_under_the_curve(either_keras, path, export):
    layers = either_keras.layers
    model = either_keras.Sequential([either_keras.Input((5,)), layers.Dense(1, "sigmoid")])
    targets = (_CLASSES == 1).astype("float32")
    _trained(model, targets, loss="binary_crossentropy", metrics=[either_keras.metrics.AUC(name="auc"), "accuracy"])
    export(model)
    received = evaluate_tflite(path, (_X, targets), [either_keras.metrics.AUC(name="auc"), "accuracy"], verbose=0)
    expected = model.evaluate(_X, targets, verbose=0, return_dict=True)
    _same(received, {"auc": expected["auc"], "accuracy": expected["accuracy"]})


def test_regression(either_keras, path, export):
    model = either_keras.Sequential([either_keras.Input((5,)), either_keras.layers.Dense(1)])
    options = {"metrics": ["mae", either_keras.metrics.RootMeanSquaredError()], "loss": "mse"}
    _trained(model, _NUMBERS, **options)
    export(model)
    received = evaluate_tflite(path, (_X, _NUMBERS), **options, verbose=0)
    _same(received, model.evaluate(_X, _NUMBERS, verbose=0, return_dict=True))


def test_two_outputs(either_keras, path, export):
    layers = either_keras.layers
    inputs = either_keras.Input((5,))
    hidden = layers.Dense(8, "relu")(inputs)
    # Neither in the order of their names nor in that of the layers.
    outputs = [layers.Dense(1, name="z")(hidden), layers.Dense(3, "softmax", name="a")(hidden)]
    model = either_keras.Model(inputs, outputs)
    options = {
        "metrics": {"z": ["mae"], "a": ["accuracy"]},
        "loss": {"z": "mse", "a": either_keras.losses.SparseCategoricalCrossentropy()},
    }
    targets = {"z": _NUMBERS, "a": _CLASSES}
    # In graphs, Keras 3 does not weight the losses of single outputs by the size of the batch.
    _trained(model, targets, **options, run_eagerly=True)
    export(model)
    expected = model.evaluate(_X, targets, verbose=0, return_dict=True)
    _same(evaluate_tflite(path, (_X, targets), **options, verbose=0), expected)
    mae = either_keras.metrics.MeanAbsoluteError(name="mae")
    (value,) = evaluate_tflite(path, (_X, targets), {"z": [mae]}, verbose=0).values()
    assert value == pytest.approx(np.abs(model.predict(_X, verbose=0)[0] - _NUMBERS).mean(), rel=1e-4)


def test_several_inputs_by_name(path, export):
    # Files come with inputs in an order of their own; subtraction tells which is which.
    inputs = {name: keras.Input((5,), name=name) for name in ("zeta", "alpha", "mid")}
    weighed = [scale * tensor for scale, tensor in zip((1.0, 10.0, 100.0), inputs.values())]
    model = keras.Model(list(inputs.values()), keras.layers.Add()(weighed))
    export(model)
    x = {name: _RNG.standard_normal((9, 5)).astype("float32") for name in ("alpha", "mid", "zeta")}
    targets = x["zeta"] + 10 * x["alpha"] + 100 * x["mid"]
    assert evaluate_tflite(path, (x, targets), ["mae"], verbose=0)["mae"] < 1e-4
    with pytest.raises(
        ValueError, match=r"^Expected inputs as a dict .*alpha: \(None, 5\).*Received: unnamed_0, unnamed_1, unnamed_2"
    ):
        evaluate_tflite(path, (list(x.values()), targets), ["mae"], verbose=0)


class _PyDataset(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(30 * index, 30 * (index + 1))
        return _X[rows], _CLASSES[rows]


@pytest.mark.parametrize(
    "data",
    [
        lambda: tf.data.Dataset.from_tensor_slices((_X, _CLASSES)).batch(30),
        lambda: tf.data.Dataset.from_tensor_slices((_X, _CLASSES)).batch(30).filter(lambda x, y: True),
        _PyDataset,
        lambda: [(_X[:60], _CLASSES[:60]), (_X[60:], _CLASSES[60:])],
        lambda: ((_X[start : start + 1], _CLASSES[start : start + 1]) for start in range(70)),
        lambda: (_X.astype("float64")[..., None], _CLASSES[:, None]),
        lambda: (pd.DataFrame(_X, index=np.arange(70)[::-1]), pd.Series(_CLASSES)),
        lambda: (scipy.sparse.csr_array(_X), _CLASSES),
        lambda: [(tf.sparse.from_dense(_X), _CLASSES)],
        lambda: (_X.tolist(), _CLASSES.tolist()),
    ],
    ids=[
        *("dataset", "dataset of unknown length", "PyDataset", "list", "generator", "arrays with another axis"),
        *("pandas", "scipy", "sparse tensors", "lists of numbers"),
    ],
)
def test_every_form_of_data(data, classifier):
    model, path = classifier
    received = evaluate_tflite(path, data(), ["accuracy"], "sparse_categorical_crossentropy", verbose=0)
    _same(received, model.evaluate(_X, _CLASSES, verbose=0, return_dict=True))


def test_pruned_model(either_keras, path, export):
    model = _classifier(either_keras)
    masks = {f"{layer.name}/kernel": _RNG.random(layer.kernel.shape) < 0.4 for layer in model.layers}
    pruned = force_tf.apply_masks(model, masks)
    _trained(pruned, _CLASSES, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    export(pruned)
    loss = either_keras.losses.SparseCategoricalCrossentropy()
    received = evaluate_tflite(path, (_X, _CLASSES), ["accuracy"], loss, verbose=0)
    _same(received, pruned.evaluate(_X, _CLASSES, verbose=0, return_dict=True))


def test_integer_inputs_and_outputs(path):
    model = _trained(_classifier(), _CLASSES, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in _X)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with pytest.warns(UserWarning, match="quantized inputs"):
        path.write_bytes(converter.convert())
    probabilities = model.predict(_X, verbose=0)
    received = evaluate_tflite(path, (_X, probabilities), ["mae"], verbose=0)["mae"]
    # Outputs are multiples of 1/256. Were they not scaled, they would be off by more than 1.
    assert received < 0.02


def test_recurrent_model_begins_every_sample_without_state(either_keras, path, export):
    layers = either_keras.layers
    model = either_keras.Sequential([either_keras.Input((6, 5)), layers.LSTM(8), layers.Dense(2)])
    model.compile(loss="mse", metrics=["mae"])
    x, y = _RNG.standard_normal((10, 6, 5)).astype("float32"), _RNG.standard_normal((10, 2))
    export(model)
    _same(evaluate_tflite(path, (x, y), ["mae"], "mse", verbose=0), model.evaluate(x, y, verbose=0, return_dict=True))


def test_batch_size_that_the_file_declares(path, export):
    model = keras.Sequential([keras.Input(batch_shape=(4, 5)), keras.layers.Dense(1)])
    export(model)
    expected = np.abs(_X @ model.layers[0].kernel.numpy() - _NUMBERS).mean()
    # 70 rows are 17 batches of 4, and 2.
    received = evaluate_tflite(path, (_X, _NUMBERS), ["mae"], batch_size=70, verbose=0)
    assert received["mae"] == pytest.approx(expected, rel=1e-5)


def test_file_whose_batch_cannot_be_run_whole(path):
    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="x")])
    def largest(x):
        return {"largest": tf.reduce_max(tf.reshape(x, [1, 2, 3]), axis=2)}  # one sample, whatever the batch size

    module = tf.Module()
    module.largest = largest
    converter = tf.lite.TFLiteConverter.from_concrete_functions([largest.get_concrete_function()], module)
    path.write_bytes(converter.convert())
    x = _RNG.standard_normal((7, 6)).astype("float32")
    expected = np.abs(x.reshape(7, 2, 3).max(axis=2)).mean()
    assert evaluate_tflite(path, (x, np.zeros((7, 2))), ["mae"], verbose=0)["mae"] == pytest.approx(expected, rel=1e-5)


def test_file_that_the_default_delegate_refuses(path):
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(300, "relu"), keras.layers.Dense(1)])
    kernel = model.layers[0].kernel
    kernel.assign(kernel.numpy() * (_RNG.random(kernel.shape) > 0.95))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    path.write_bytes(converter.convert())
    x = _RNG.standard_normal((30, 20)).astype("float32")
    outputs = model.predict(x, verbose=0)
    received = evaluate_tflite(path, (x, outputs), ["mae"], verbose=0)["mae"]
    assert received < 0.05 * np.abs(outputs).max(), "8-bit weights are this coarse"


def test_metrics_that_are_arrays(classifier):
    model, path = classifier
    received = evaluate_tflite(path, (_X, np.eye(3)[_CLASSES]), [keras.metrics.F1Score(name="f1")], verbose=0)["f1"]
    classes = model.predict(_X, verbose=0).argmax(axis=1)
    hits, total = np.bincount(classes[classes == _CLASSES], minlength=3), np.bincount([*classes, *_CLASSES])
    np.testing.assert_allclose(received, 2 * hits / total, rtol=1e-5)


def test_metric_objects_are_reset(classifier):
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    metric.update_state([0] * 1000, [[0.0, 1.0]] * 1000)
    model, path = classifier
    received = evaluate_tflite(path, (_X, _CLASSES), [metric], verbose=0)
    _same(received, {"accuracy": model.evaluate(_X, _CLASSES, verbose=0, return_dict=True)["accuracy"]})


def test_only_the_progress_is_printed(classifier, capfd):
    _, path = classifier
    evaluate_tflite(path, (_X, _CLASSES), ["accuracy"], verbose=0)
    assert capfd.readouterr() == ("", "")
    value = evaluate_tflite(path, (_X, _CLASSES), ["accuracy"], verbose=2)["accuracy"]
    printed = capfd.readouterr()
    assert printed.out.startswith("3/3 - ")
    assert printed.out.endswith(f"accuracy: {value:.4f}\n")
    assert printed.err == ""


def test_mixed_precision_does_not_round_the_outputs(classifier):
    model, path = classifier
    expected = model.evaluate(_X, _CLASSES, verbose=0, return_dict=True)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        received = evaluate_tflite(path, (_X, _CLASSES), ["accuracy"], "sparse_categorical_crossentropy", verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    _same(received, expected)


_BATCH = [(_X, _CLASSES)]


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (_X, {}, TypeError, r"Expected data as .*Received: an array of shape \(70, 5\)"),
        ([_X], {}, ValueError, "needs targets. Received: a batch without them"),
        ([], {}, ValueError, "Expected at least one batch of data"),
        (iter([]), {}, ValueError, "Expected at least one batch of data"),
        ((_X[:0], _CLASSES[:0]), {}, ValueError, "Expected at least one"),
        (tf.data.Dataset.from_tensors(_BATCH[0]).repeat(), {}, ValueError, "Expected data that ends"),
        ((_X[:, :4], _CLASSES), {}, ValueError, r"of shape \(None, 5\) for '\w+'. Received: shape \(32, 4\)"),
        ([(_X, _NUMBERS[:3])], {}, ValueError, r"output_0: \(70, 3\).*targets of the shapes \(3, 1\)"),
        ([(_X, {"other": _CLASSES})], {}, ValueError, r"Expected targets as a dict .*\(output_0\). Received: other"),
        ([(tf.RaggedTensor.from_tensor(_X), _CLASSES)], {}, TypeError, "no ragged arrays. Received: a RaggedTensor"),
        (_BATCH, {"metrics": None}, ValueError, "Received: none of them"),
        (_BATCH, {"metrics": "accuracy"}, TypeError, "Received: metrics='accuracy'"),
        (_BATCH, {"metrics": ["acuracy"]}, ValueError, "acuracy"),
        (_BATCH, {"metrics": {"other": ["mae"]}}, ValueError, r"the file's outputs \(output_0\).*Received: other"),
        (_BATCH, {"batch_size": 0}, ValueError, "Received: batch_size=0"),
        (_BATCH, {"threads": 0}, ValueError, "Received: threads=0"),
        (_BATCH, {"verbose": 3}, ValueError, "Received: verbose=3"),
    ],
)
def test_what_does_not_fit(data, options, error, message, classifier):
    _, path = classifier
    with pytest.raises(error, match=message) as caught:
        evaluate_tflite(path, data, **{"metrics": ["accuracy"], "verbose": 0, **options})
    assert str(caught.value).startswith("Expected")
    assert "\n" not in str(caught.value)


def test_metrics_of_both_kerases(classifier):
    _, path = classifier
    tf_keras = pytest.importorskip("tf_keras")
    with pytest.raises(TypeError, match="of one Keras"):
        evaluate_tflite(path, _BATCH, [tf_keras.metrics.MeanAbsoluteError()], keras.losses.MeanSquaredError())


def test_several_outputs_without_names(path, export):
    inputs = keras.Input((5,))
    export(keras.Model(inputs, [keras.layers.Dense(1, name="a")(inputs), keras.layers.Dense(1, name="b")(inputs)]))
    with pytest.raises(ValueError, match=r"Expected targets as a dict .*\(a, b\). Received: a list"):
        evaluate_tflite(path, [(_X, [_NUMBERS, _NUMBERS])], {"a": ["mae"]}, verbose=0)
    with pytest.raises(ValueError, match=r"Expected `metrics` as a dict .*\(a, b\).*Received: a list"):
        evaluate_tflite(path, [(_X, {"a": _NUMBERS, "b": _NUMBERS})], ["mae"], verbose=0)


def test_what_is_no_tflite_file(path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        evaluate_tflite(path, _BATCH, ["accuracy"])
    path.write_bytes(b"this is no model")
    with pytest.raises(
        ValueError, match=r"^Expected a TFLite file that the interpreter can run \(.*Received: '.*tflite'"
    ):
        evaluate_tflite(path, _BATCH, ["accuracy"])
