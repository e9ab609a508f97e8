"""TFLite export in every quantization: zeros, outputs, encodings, data and refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import force_tf
from force_tf.export import export_tflite, flatbuffer
from force_tf.export.samples import random_samples, signature_of

QUANTIZED = ("float16", "dynamic", "int8", "int8_io")
BITS = {"float16": 1e-3, "dynamic": 0.03, "int8": 0.05, "int8_io": 0.05}  # what a number may lose, of the largest


def network(keras=keras, seed=0):
    """Convolutions of every kind, and a dense layer, all of different shapes."""
    layers = keras.layers
    keras.utils.set_random_seed(seed)
    stack = [
        layers.Conv2D(12, 3, activation="relu", name="a"),
        layers.Conv2D(20, 1, activation="relu", name="b"),
        layers.DepthwiseConv2D(3, name="c"),
        layers.Flatten(),
        layers.Dense(30, activation="relu", name="d"),
        layers.Dense(7, name="e"),
    ]
    return keras.Sequential([keras.Input((8, 8, 5)), *stack])


def masks_of(model, sparsity=0.9):
    rng = np.random.default_rng(0)
    names = ("a", "b", "d", "e")
    return {f"{name}/kernel": rng.random(model.get_layer(name).kernel.shape) >= sparsity for name in names}


def images(count=40, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 5)).astype("float32")


def in_file(mask):
    """A mask as TFLite stores kernels: output channels first."""
    return np.moveaxis(mask, -1, 0)


def run(path, x, **options):
    """Runs a file on one sample after another, numbers quantized by hand."""
    interpreter = Interpreter(str(path), **options)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for sample in x:
        scale, zero = source["quantization"]
        value = np.clip(np.round(sample / scale) + zero, -128, 127) if scale else sample
        interpreter.set_tensor(source["index"], value[np.newaxis].astype(source["dtype"]))
        interpreter.invoke()
        result = interpreter.get_tensor(target["index"])[0]
        scale, zero = target["quantization"]
        results.append((result.astype("float32") - zero) * scale if scale else result)
    return np.stack(results)


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_zeros_and_outputs_survive(either_keras, quantize, tmp_path):
    model = network(either_keras)
    masks = masks_of(model)
    pruned = force_tf.apply_masks(model, masks)
    arguments = {"quantize": quantize, "representative_data": images(), "verbose": False}
    dense = export_tflite(pruned, tmp_path / "dense.tflite", sparse=False, **arguments)
    small = export_tflite(pruned, tmp_path / "small.tflite", **arguments)

    stored = {
        weight.shape: (weight.values == weight.zero).reshape(weight.shape)
        for weight in flatbuffer.weights_of(flatbuffer.parse((tmp_path / "dense.tflite").read_bytes()))
    }
    for path, mask in masks.items():
        assert stored[in_file(mask).shape][in_file(~mask)].all(), f"a pruned weight of {path} is not zero"
    assert [(tensor.shape, tensor.zeros) for tensor in small.tensors] == [
        (tensor.shape, tensor.zeros) for tensor in dense.tensors
    ]

    x = images(6, seed=1)
    expected = pruned.predict(x, verbose=0)
    received = run(small.path, x)
    np.testing.assert_allclose(received, expected, atol=BITS[quantize] * np.abs(expected).max())
    np.testing.assert_allclose(received, run(dense.path, x), atol=1e-5)
    assert small.bytes == (tmp_path / "small.tflite").stat().st_size <= dense.bytes
    assert small.bytes < 0.5 * dense.bytes or quantize != "float16", (small.bytes, dense.bytes)
    assert dense.operations.get("DENSIFY") is None
    assert not any(tensor.sparse for tensor in dense.tensors)


def test_what_is_dense_in_an_int8_file_and_why(tmp_path):
    model = network()
    pruned = force_tf.apply_masks(model, masks_of(model))
    report = export_tflite(
        pruned, tmp_path / "model.tflite", quantize="int8", representative_data=images(), verbose=False
    )
    sparse = {tensor.shape: tensor.sparse for tensor in report.tensors if tensor.size > 200}
    convolution, dense = (12, 3, 3, 5), (30, 16 * 20)
    assert sparse[convolution]
    assert not sparse[dense]
    (reason,) = (tensor.reason for tensor in report.tensors if tensor.shape == dense)
    assert "XNNPACK fails to prepare FULLY_CONNECTED" in reason
    assert reason in report.details()


def test_the_risky_file_comes_with_a_warning(tmp_path):
    model = network()
    pruned = force_tf.apply_masks(model, masks_of(model))
    path = tmp_path / "model.tflite"
    with pytest.warns(UserWarning, match=r"does not load in ai-edge-litert \d.*with its default delegate"):
        report = export_tflite(pruned, path, quantize="dynamic", sparse=True, verbose=False)
    assert report.failure in str(report)
    with pytest.raises(RuntimeError):
        run(path, images(1))
    x = images(3, seed=1)
    received = run(path, x, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    expected = pruned.predict(x, verbose=0)
    np.testing.assert_allclose(received, expected, atol=BITS["dynamic"] * np.abs(expected).max())


@pytest.mark.parametrize("zeros", [0.9, 0.5])
def test_float16_weights_that_xnnpack_would_leave_undefined_are_stored_otherwise(zeros, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(60, 32), layers.Flatten(), layers.Dense(40)]
    )
    for variable in (model.layers[0].embeddings, model.layers[2].kernel):
        variable.assign(variable.numpy() * (np.random.default_rng(0).random(variable.shape) > zeros))
    report = export_tflite(model, tmp_path / "model.tflite", quantize="float16", verbose=False)
    table, kernel = ({item.shape: item for item in report.tensors}[shape] for shape in ((60, 32), (40, 192)))
    # A tenth of the numbers with 32 bits and their places take less than all of them with 16, a half takes more.
    assert (table.sparse, table.dtype) == ((True, "float32") if zeros == 0.9 else (False, "float16"))
    assert table.bytes < 0.4 * 2 * table.size if zeros == 0.9 else table.bytes == 2 * table.size
    assert (kernel.sparse, kernel.dtype) == (True, "float16")
    x = np.random.default_rng(1).integers(0, 60, (4, 6)).astype("int32")
    np.testing.assert_allclose(run(report.path, x), model.predict(x, verbose=0), atol=1e-4)
    half = np.unique(np.asarray(model.layers[0].embeddings).astype("float16"))
    stored = next(
        item
        for item in flatbuffer.weights_of(flatbuffer.parse((tmp_path / "model.tflite").read_bytes()))
        if "embed" in item.name
    )
    assert set(stored.values.astype("float32")) <= set(half.astype("float32")), "no digits that 16 bits lack"


def test_a_kind_of_operation_that_the_runtime_cannot_run_sparsely_is_found_by_running(tmp_path):
    # With a varying batch size XNNPACK does not take over the transposed convolution, and so not its float16 weights.
    layers = keras.layers
    stack = [layers.Conv2D(32, 3, name="a"), layers.Conv2DTranspose(24, 3, name="b")]
    model = keras.Sequential([keras.Input((8, 8, 16)), *stack])
    for layer in stack:
        layer.kernel.assign(layer.kernel.numpy() * (np.random.default_rng(0).random(layer.kernel.shape) > 0.9))
    report = export_tflite(model, tmp_path / "model.tflite", quantize="float16", verbose=False)
    reasons = {tensor.shape: (tensor.sparse, tensor.reason) for tensor in report.tensors}
    assert reasons[(32, 3, 3, 16)][0]
    assert not reasons[(24, 3, 3, 32)][0]
    assert "does not run sparse weights of TRANSPOSE_CONV" in reasons[(24, 3, 3, 32)][1]
    assert report.max_difference < 2e-3


# All forms are read by one function, which other tests see as well.
_SLOWER = [pytest.param(form, marks=pytest.mark.slow) for form in ("tuple", "dataset", "endless generator")]


@pytest.mark.parametrize("form", ["array", "PyDataset", *_SLOWER])
def test_representative_and_verify_data_come_in_every_form_that_fit_takes(form, tmp_path):
    x, y = images(32), np.zeros(32)

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]

    def endless():
        while True:
            yield x[:8], y[:8]

    data = {
        "array": lambda: x,
        "tuple": lambda: (x, y),
        "dataset": lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(5),
        "endless generator": endless,
        "PyDataset": Sequence,
    }[form]
    path = tmp_path / "model.tflite"
    report = export_tflite(network(), path, quantize="int8", representative_data=data(), verbose=False)
    assert report.samples == (500 if form == "endless generator" else 32)
    # Ranges that were measured on numbers of another size would cut these off.
    x = 100 * x
    report = export_tflite(network(), path, quantize="int8", representative_data=data(), verbose=False)
    assert report.max_difference < 0.05 * np.abs(network().predict(x, verbose=0)).max()
    assert export_tflite(network(), path, verify_data=data(), verbose=False).samples >= 32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"Expected `representative_data`.*Received: representative_data=None"),
        (images(3), r"Expected `representative_data` to hold 10 samples or more.*Received: 3"),
        (np.zeros((20, 8, 8, 4)), r"Expected `representative_data`.*\(None, 8, 8, 5\).*Received: .*\(20, 8, 8, 4\)"),
    ],
)
def test_representative_data_that_does_not_fit(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_tflite(network(), tmp_path / "model.tflite", quantize="int8", representative_data=data)
    assert not list(tmp_path.iterdir())


def test_quantize_must_be_known(tmp_path):
    with pytest.raises(ValueError, match=r"`quantize` to be one of .*Received: quantize='int4'"):
        export_tflite(network(), tmp_path / "model.tflite", quantize="int4")
    with pytest.raises(ValueError, match=r"`tolerance`.*Received: tolerance=-1"):
        export_tflite(network(), tmp_path / "model.tflite", tolerance=-1)


def test_beyond_the_tolerance_there_is_no_file(tmp_path):
    path = tmp_path / "model.tflite"
    arguments = {"quantize": "dynamic", "verify_data": images(20), "verbose": False}
    report = export_tflite(network(), path, tolerance=10, **arguments)
    path.unlink()
    with pytest.raises(ValueError, match=r"within 1e-06 of the Keras model's.*Received: outputs that differ by up to"):
        export_tflite(network(), path, tolerance=1e-6, **arguments)
    assert not list(tmp_path.iterdir())
    assert 0 < report.mean_difference < report.max_difference
    same = np.argmax(run_again(network(), path, images(20)), axis=1)
    expected = np.argmax(network().predict(images(20), verbose=0), axis=1)
    assert report.top_class_agreement == np.mean(same == expected)


def run_again(model, path, x):
    export_tflite(model, path, quantize="dynamic", verbose=False)
    return run(path, x)


@pytest.mark.parametrize("quantize", ["int8", pytest.param("int8_io", marks=pytest.mark.slow)])
def test_recurrent_layers_whose_conversion_would_crash_are_refused(either_keras, quantize, tmp_path):
    layers = either_keras.layers
    model = either_keras.Sequential([either_keras.Input((5, 6)), layers.LSTM(8)])
    data = np.zeros((20, 5, 6))
    with pytest.raises(ValueError, match=r"without recurrent layers.*quantize='dynamic', or .*unroll=True.*Received"):
        export_tflite(model, tmp_path / "model.tflite", quantize=quantize, representative_data=data)
    unrolled = keras.Sequential([keras.Input((5, 6)), keras.layers.LSTM(8, unroll=True)])
    x = np.random.default_rng(0).standard_normal((20, 5, 6))
    report = export_tflite(unrolled, tmp_path / "model.tflite", quantize=quantize, representative_data=x, verbose=False)
    assert report.max_difference < 0.05


def test_mixed_precision_becomes_int8(tmp_path):
    keras.utils.set_random_seed(0)
    policy = "mixed_float16"
    stack = [keras.layers.Conv2D(8, 3, dtype=policy), keras.layers.Flatten(), keras.layers.Dense(3, dtype=policy)]
    model = keras.Sequential([keras.Input((8, 8, 5)), *stack])
    report = export_tflite(
        model, tmp_path / "model.tflite", quantize="int8_io", representative_data=images(), verbose=False
    )
    assert {tensor.dtype for tensor in report.tensors} == {"int8"}
    assert report.max_difference < 0.05 * np.abs(model.predict(images(), verbose=0)).max()


def test_operations_of_tensorflows_are_for_those_who_ask(tmp_path):
    inverse = keras.layers.Lambda(lambda x: keras.ops.linalg.inv(keras.ops.reshape(x, (-1, 2, 2))), name="inverse")
    model = keras.Sequential([keras.Input((4,)), inverse])
    x = np.array([[2, 0, 0, 4]], "float32")
    with pytest.raises(ValueError, match=r"allow_select_tf_ops=True.*'inverse'.*tf.MatrixInverse"):
        export_tflite(model, tmp_path / "model.tflite", verify_data=x)
    with pytest.warns(UserWarning, match=r"operations of TensorFlow.s, which tensorflow \d.* has not been compared"):
        # TensorFlow's own interpreter has lost these operations with version 2.20.
        report = export_tflite(model, tmp_path / "model.tflite", verify_data=x, allow_select_tf_ops=True, verbose=False)
    assert "FlexMatrixInverse" in report.operations
    assert (report.max_difference, report.samples) == (None, 0)
    assert "could not be run" in str(report)
    # Who allows what the model does not need gets the file that all others get.
    report = export_tflite(network(), tmp_path / "model.tflite", allow_select_tf_ops=True, verbose=False)
    assert report.max_difference < 1e-5
    assert report.failure is None


def test_random_samples_are_in_the_range_that_the_model_expects():
    layers = keras.layers
    normalization = layers.Normalization(mean=[10.0, 0.0, -5.0], variance=[4.0, 1.0, 25.0])
    model = keras.Sequential([keras.Input((40, 40, 3)), layers.Rescaling(1 / 255, offset=-0.5), normalization])
    (x,) = random_samples(model, signature_of(model))
    received = model(x).numpy()
    np.testing.assert_allclose([received.mean(), received.std()], [0, 1], atol=0.02)
    model = keras.Sequential([keras.Input((4, 4, 3), dtype="uint8"), layers.Rescaling(1 / 255)])
    (x,) = random_samples(model, signature_of(model))
    assert x.dtype == "uint8"
    assert x.min() < 20
    assert x.max() > 235


@pytest.mark.parametrize("quantize", ["int8", "int8_io"])
def test_biases_of_channels_without_weights_survive(either_keras, quantize, tmp_path):
    layers = either_keras.layers
    either_keras.utils.set_random_seed(0)
    stack = [
        layers.Conv2D(8, 3, activation="relu", bias_initializer="random_normal", name="a"),
        layers.DepthwiseConv2D(3, name="b"),
        layers.Flatten(),
        layers.Dense(6, bias_initializer="random_normal", name="c"),
    ]
    model = either_keras.Sequential([either_keras.Input((8, 8, 5)), *stack])
    for layer in (model.get_layer("a"), model.get_layer("c")):
        kernel, bias = layer.get_weights()
        kernel[..., ::2] = 0
        layer.set_weights([kernel, 40 * bias])  # so large that the converter's own scale cuts it off
    x = images(30)
    path = tmp_path / "model.tflite"
    export_tflite(model, path, quantize=quantize, representative_data=x, verbose=False)
    expected = model.predict(x[:5], verbose=0)
    received = run(path, x[:5])
    np.testing.assert_allclose(received, expected, atol=0.05 * np.abs(expected).max())
