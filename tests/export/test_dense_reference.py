"""The dense file that reports compare with: converted once for a model, and anew when anything of it changes."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from force_tf.export import export_tflite


@pytest.fixture
def conversions(monkeypatch):
    """Counts the files that TensorFlow's converter makes."""
    counted = []
    convert = tf.lite.TFLiteConverter.convert

    def counting(converter):
        counted.append(converter)
        return convert(converter)

    monkeypatch.setattr(tf.lite.TFLiteConverter, "convert", counting)
    return counted


def pruned(keras, seed=0, activation="swish"):
    """A network with a function of its own gradient inside, whose name has another number in each trace."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), layers.Dense(40, activation), layers.Dense(3)])
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(240).reshape(6, 40) % 10, 0, np.asarray(kernel)))
    return model


def sizes(report):
    return report.dense_bytes, report.dense_gzip_bytes, report.dense_zstd_bytes


def test_it_is_converted_once(either_keras, tmp_path, conversions):
    path, model = tmp_path / "model.tflite", pruned(either_keras)
    reports = [export_tflite(model, path, quantize=kind, verbose=False) for kind in (None, "float16", "dynamic", None)]
    assert len(conversions) == 1 + 4, "the dense file, and one for each export"
    assert len({sizes(report) for report in reports}) == 1


def test_a_dense_model_is_its_own(tmp_path, conversions):
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), layers.Dense(40), layers.Dense(3)])
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert len(conversions) == 1
    assert report.dense_bytes == pytest.approx(report.bytes, abs=50), "the names of its weights may be longer"


def test_it_is_never_stale(either_keras, tmp_path, conversions):
    path, model = tmp_path / "model.tflite", pruned(either_keras, seed=1)

    def converted(model, **settings):
        before = len(conversions)
        report = export_tflite(model, path, verbose=False, **settings)
        return len(conversions) - before, sizes(report)

    first = converted(model)
    assert first[0] == 2
    assert converted(model) == (1, first[1])
    model.layers[1].bias.assign([1.0, 2.0, 3.0])
    other_weights = converted(model)
    assert other_weights[0] == 2
    model.layers[0].activation = either_keras.activations.get("tanh")
    other_graph = converted(model)
    assert other_graph[0] == 2
    assert other_graph[1][0] != other_weights[1][0], "the graph of another activation takes other bytes"


def test_models_without_a_batch_size_that_varies_are_known_again(tmp_path, conversions):
    layers = keras.layers
    model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(6), layers.Dense(2)])
    model.layers[-1].kernel.assign(np.eye(6, 2))
    first = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert len(conversions) == 3, "that of any batch size fails"
    second = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert len(conversions) == 4
    assert sizes(first) == sizes(second)
    assert second.batch_size == 1


def test_models_are_not_kept_for_it(either_keras, tmp_path):
    model = pruned(either_keras, seed=2)
    export_tflite(model, tmp_path / "model.tflite", verbose=False)
    gone = weakref.ref(model.layers[0])
    del model
    either_keras.backend.clear_session()
    gc.collect()
    assert gone() is None
