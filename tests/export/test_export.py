"""TFLite export: sizes, zeros, outputs and reports of the files, and what stays as it was."""

import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import zstandard
from keras import layers

import force_tf
from force_tf.export import export_tflite
from force_tf.layers import apply_masks


def _mlp(keras=keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((256,)),
            layers.Dense(300, "relu", name="a"),
            layers.Dense(100, "relu", name="b"),
            layers.Dense(10),
        ]
    )


def _zero_kernels(model, sparsity):
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if "bias" not in weight.name and len(weight.shape) > 1:
            weight.assign(weight.numpy() * (rng.random(weight.shape) >= sparsity))
    return model


def _run(path, *inputs):
    """Runs a file in an interpreter of its own, with inputs in the order of the file; returns the outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return runner(**dict(zip(runner.get_input_details(), inputs)))


def test_sparse_model_becomes_a_small_file_with_equal_outputs(either_keras, tmp_path):
    model = _zero_kernels(_mlp(either_keras), 0.95)
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    weights = 256 * 300 + 300 * 100 + 100 * 10
    content = (tmp_path / "model.tflite").read_bytes()
    assert report.bytes == len(content)
    assert report.gzip_bytes == len(gzip.compress(content, compresslevel=6, mtime=0)), "as the gzip command does"
    assert report.sparse
    assert report.bytes < 0.12 * report.dense_bytes, f"{report.bytes} bytes against {report.dense_bytes}"
    assert 4 * weights < report.dense_bytes < 4 * weights + 5000
    # Random float32 numbers hardly compress: a dense model whose zeros are refilled keeps most of its bytes.
    assert report.dense_gzip_bytes > 0.85 * 4 * weights, report.dense_gzip_bytes
    x = np.random.default_rng(1).standard_normal((1, 256)).astype("float32")
    (received,) = _run(report.path, x).values()
    np.testing.assert_allclose(received, model.predict(x, verbose=0), atol=1e-5)
    assert report.max_difference < 1e-5


def test_zeros_of_a_masked_model_stand_in_the_file(either_keras, tmp_path):
    model = _mlp(either_keras)
    rng = np.random.default_rng(0)
    masks = {f"{layer.name}/kernel": rng.random(layer.kernel.shape) >= 0.9 for layer in model.layers}
    report = export_tflite(apply_masks(model, masks), tmp_path / "model.tflite", verbose=False)
    expected = {mask.shape[::-1]: int(np.sum(~mask)) for mask in masks.values()}  # TFLite's kernels are transposed
    assert {tensor.shape: tensor.zeros for tensor in report.tensors if len(tensor.shape) == 2} == expected
    assert all(tensor.sparse for tensor in report.tensors if len(tensor.shape) == 2), str(report)
    assert report.max_difference < 1e-5


@pytest.mark.parametrize(("units", "sparsity"), [(3, 0.95), (300, 0.0), (300, 0.05)])
def test_dense_encoding_where_it_is_smaller(units, sparsity, tmp_path):
    model = _zero_kernels(keras.Sequential([keras.Input((8,)), layers.Dense(units)]), sparsity)
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    forced = export_tflite(model, tmp_path / "forced.tflite", sparse=True, verbose=False)
    assert not report.sparse, str(report)
    assert forced.bytes >= report.bytes


def test_no_weight_is_lost_where_sparse_encoding_drops_some(tmp_path):
    # TensorFlow stores these kernels in blocks of four along rows of six, and drops the last two of each row.
    model = keras.Sequential([keras.Input((6,)), layers.Dense(256)])
    kernel = np.zeros((6, 256), "float32")
    kernel[:, ::20] = 1 + np.arange(6 * 13).reshape(6, 13)
    model.layers[0].kernel.assign(kernel)
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    (tensor,) = (tensor for tensor in report.tensors if tensor.size == kernel.size)
    assert tensor.zeros == np.count_nonzero(kernel == 0), str(report)
    assert report.max_difference < 1e-4


def test_empty_kernels_of_one_shape_count_in_the_dense_size(tmp_path):
    model = keras.Sequential([keras.Input((64,)), *(layers.Dense(64) for _ in range(3))])
    for layer in model.layers[1:]:
        layer.kernel.assign(np.zeros((64, 64)))
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert report.dense_bytes > 3 * 64 * 64 * 4, "identical empty kernels are merged in the dense reference"


def test_several_inputs_and_outputs_in_dicts(either_keras, tmp_path):
    layers = either_keras.layers
    a, b = either_keras.Input((4,), name="a"), either_keras.Input((3,), dtype="int32", name="b")
    embedded = layers.Flatten()(layers.Embedding(5, 2)(b))
    outputs = {"z": layers.Dense(2)(a), "y": layers.Dense(1)(layers.Concatenate()([a, embedded]))}
    model = either_keras.Model({"b": b, "a": a}, outputs)
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    x = {"a": np.ones((1, 4), "float32"), "b": np.array([[0, 4, 2]], "int32")}
    received = _run(report.path, x["a"], x["b"])
    expected = model(x)
    assert set(received) == {"y", "z"}
    for name in received:
        np.testing.assert_allclose(received[name], expected[name], atol=1e-6, err_msg=name)


def test_recurrent_model_gets_batch_size_one(either_keras, tmp_path):
    layers = either_keras.layers
    model = either_keras.Sequential([either_keras.Input((6, 5)), layers.LSTM(8), layers.Dense(2)])
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert report.batch_size == 1
    assert report.max_difference < 1e-5


def test_stateful_layers_keep_their_state_in_the_file(either_keras, tmp_path):
    inputs = either_keras.Input(batch_shape=(8, 10, 4))
    head = either_keras.Sequential([either_keras.Input(batch_shape=(8, 16)), either_keras.layers.Dense(1)])
    model = either_keras.Sequential([inputs, either_keras.layers.LSTM(16, stateful=True, name="lstm"), head])
    x = np.random.default_rng(0).normal(size=(24, 10, 4)).astype("float32")
    first, second = (np.asarray(model(batch)) for batch in (x[:8], x[:8]))
    assert np.abs(first - second).max() > 1e-4, "the state counts"
    states = [np.array(state) for state in model.layers[0].states]
    report = export_tflite(model, tmp_path / "model.tflite", verify_data=x, verbose=False)
    assert report.batch_size == 8
    assert report.samples == 24
    for state, before in zip(model.layers[0].states, states, strict=True):
        np.testing.assert_array_equal(state, before)
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(tmp_path / "model.tflite")).get_signature_runner()
    name = next(iter(run.get_input_details()))
    for expected in (first, second):
        (received,) = run(**{name: x[:8]}).values()
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_batch_size_may_vary_where_that_of_the_model_may(tmp_path):
    model = _mlp()
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    x = np.random.default_rng(0).standard_normal((7, 256)).astype("float32")
    (received,) = _run(report.path, x).values()
    assert report.batch_size is None
    np.testing.assert_allclose(received, model.predict(x, verbose=0), atol=1e-5)


def test_subclassed_model_is_exported_from_samples(either_keras, tmp_path):
    class Doubling(either_keras.Model):
        def call(self, inputs):
            return {"twice": 2 * inputs["x"]}

    model = Doubling()
    model({"x": np.ones((1, 3))})
    with pytest.raises(ValueError, match=r"Expected `verify_data`.*Received: verify_data=None"):
        export_tflite(model, tmp_path / "model.tflite")
    report = export_tflite(
        model, tmp_path / "model.tflite", verify_data={"x": np.ones((2, 3), "float32")}, verbose=False
    )
    np.testing.assert_array_equal(_run(report.path, np.full((1, 3), 4, "float32"))["twice"], np.full((1, 3), 8))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions_are_rebuilt_in_float32(either_keras, policy, tmp_path):
    layers = either_keras.layers
    inner = either_keras.Sequential([either_keras.Input((20,)), layers.Dense(16, dtype=policy)], name="inner")
    model = either_keras.Sequential(
        [either_keras.Input((20,)), inner, layers.Dropout(0.5, dtype=policy), layers.Dense(2, dtype=policy)]
    )
    model.compile("sgd", loss=lambda y_true, y_pred: y_pred)  # cannot be serialized, and need not be
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    x = np.random.default_rng(1).standard_normal((1, 20)).astype("float32")
    hidden = x @ inner.layers[0].kernel.numpy() + inner.layers[0].bias.numpy()
    expected = hidden @ model.layers[2].kernel.numpy() + model.layers[2].bias.numpy()
    (received,) = _run(report.path, x).values()
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, expected, atol=1e-5)
    assert force_tf.models.keras_models.compile_arguments(model), "the model is no longer compiled"
    assert model.layers[-1].compute_dtype == policy.removeprefix("mixed_")


def test_the_model_and_the_process_stay_as_they_were(either_keras, tmp_path):
    layers = either_keras.layers
    hidden = [layers.Dense(8, dtype="mixed_float16", activity_regularizer="l2"), layers.BatchNormalization()]
    model = either_keras.Sequential([either_keras.Input((8,)), *hidden, layers.Dropout(0.5), layers.Dense(2)])
    before = [variable.numpy() for variable in model.variables]
    state, handlers = random.getstate(), list(tf.get_logger().handlers)
    export_tflite(model, tmp_path / "model.tflite", verbose=False)
    for value, variable in zip(before, model.variables):
        np.testing.assert_array_equal(value, variable.numpy(), err_msg=variable.name)
    assert random.getstate() == state
    assert tf.get_logger().handlers == handlers
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_only_a_bar_and_the_report_are_printed(tmp_path, capfd):
    report = export_tflite(_zero_kernels(_mlp(), 0.9), tmp_path / "model.tflite")
    printed = capfd.readouterr()
    bar, rest = printed.out.split("/stage", 3)[:-1], printed.out.rsplit("/stage", 1)[1]
    assert [re.findall(r"\d/3", part)[-1] for part in bar] == ["1/3", "2/3", "3/3"]
    assert rest.strip("\b \n") == str(report).strip()
    assert printed.err == ""
    export_tflite(_mlp(), tmp_path / "model.tflite", verbose=False)
    assert capfd.readouterr() == ("", "")


def test_the_report_as_a_table_and_as_json(tmp_path):
    report = export_tflite(_zero_kernels(_mlp(), 0.9), tmp_path / "model.tflite", verbose=False)
    table = report.details()
    assert f"{report.bytes:,}" in table
    assert f"{report.dense_gzip_bytes:,}" in table
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded["bytes"] == report.bytes
    assert sum(tensor["zeros"] for tensor in loaded["tensors"]) == report.zeros


def test_tensorflows_own_interpreter_serves_where_litert_is_missing(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # what makes its import fail
    _replace_litert(tmp_path, monkeypatch, "raise ImportError")
    model = _zero_kernels(_mlp(), 0.95)
    capfd.readouterr()  # TensorFlow has something to say when it first looks for devices
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert report.max_difference < 1e-5
    assert report.runtime == f"tensorflow {tf.__version__}"
    assert capfd.readouterr() == ("", "")


def test_a_runtime_that_crashes_takes_nothing_down_with_it(tmp_path, monkeypatch, capfd):
    _replace_litert(tmp_path, monkeypatch, "import os; os.abort()")
    model = _mlp()
    capfd.readouterr()
    with pytest.raises(ValueError, match=r"the interpreter loads and runs. Received: .* ended by SIGABRT"):
        export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert not (tmp_path / "model.tflite").exists()
    assert capfd.readouterr() == ("", "")


def _replace_litert(folder, monkeypatch, source):
    """Puts another module in the place of LiteRT's, for new processes."""
    package = folder / "modules" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


@pytest.mark.parametrize(("compiler", "suffix"), [("gcc", "c"), ("g++", "cc")])
def test_the_c_array_holds_the_file(compiler, suffix, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    report = export_tflite(_mlp(), tmp_path / "model.tflite", sparse=False, verbose=False)
    report.write_c_array(tmp_path / f"2-model.{suffix}")
    program = """
        #include <stdint.h>
        #include <stdio.h>
        #ifdef __cplusplus
        extern "C" {
        #endif
        extern const unsigned char model_2_model[];
        extern const unsigned int model_2_model_len;
        #ifdef __cplusplus
        }
        #endif
        int main() {
          fwrite(model_2_model, 1, model_2_model_len, stdout);
          return (uintptr_t)model_2_model % 16;
        }
    """
    (tmp_path / f"main.{suffix}").write_text(program)
    sources = [f"2-model.{suffix}", f"main.{suffix}"]
    subprocess.run([compiler, "-Wall", "-Werror", "-O0", *sources, "-o", "program"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "program"], capture_output=True, check=True).stdout
    assert printed == (tmp_path / "model.tflite").read_bytes()


def test_the_c_array_needs_a_name_that_c_accepts(tmp_path):
    report = export_tflite(_mlp(), tmp_path / "model.tflite", verbose=False)
    with pytest.raises(ValueError, match=r"identifier of C. Received: name='a-b'"):
        report.write_c_array(tmp_path / "model.c", name="a-b")
    assert not (tmp_path / "model.c").exists()


def test_the_report_counts_compressed_bytes_and_operations(tmp_path):
    report = export_tflite(_zero_kernels(_mlp(), 0.95), tmp_path / "model.tflite", verbose=False)
    content = (tmp_path / "model.tflite").read_bytes()
    assert zstandard.decompress(zstandard.compress(content)) == content
    assert report.zstd_bytes == len(zstandard.compress(content)) < report.dense_zstd_bytes
    assert report.operations == {"DENSIFY": 3, "FULLY_CONNECTED": 3}
    assert report.min_runtime_version == "2.2.0"  # that of DENSIFY
    dense = export_tflite(_mlp(), tmp_path / "dense.tflite", verbose=False)
    assert dense.operations == {"FULLY_CONNECTED": 3}
    assert tuple(map(int, dense.min_runtime_version.split("."))) < (2, 2, 0)
    assert sum(tensor.bytes for tensor in dense.tensors) == 4 * sum(tensor.size for tensor in dense.tensors)
