"""`benchmark_tflite`: times and memory in both modes, and files and runtimes that fail."""

import importlib
import json
import os
import signal
import sys
import textwrap
import threading
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import force_tf
from force_tf.export.programs import time_calls

# What a measurement asks of a runtime, around what a test has it do when a file is loaded and run.
_RUNTIME = """
    import enum, os, signal, time

    class OpResolverType(enum.Enum):
        AUTO = 0
        BUILTIN_WITHOUT_DEFAULT_DELEGATES = 3

    class Interpreter:
        def __init__(self, model_path, num_threads, experimental_op_resolver_type):
            delegate = experimental_op_resolver_type is OpResolverType.AUTO
            {load}
        def allocate_tensors(self): pass
        def get_input_details(self): return []
        def invoke(self): {invoke}
"""


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """Puts another runtime in the place of LiteRT, for new processes."""

    def replace(load="pass", invoke="pass"):
        package = tmp_path / "modules" / "ai_edge_litert"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('__version__ = "0"')
        (package / "interpreter.py").write_text(textwrap.dedent(_RUNTIME.format(load=load, invoke=invoke)))
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return replace


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file with an input of numbers, and one of indices, of which 0 and 1 are valid."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    joined = layers.Concatenate()([a, layers.Flatten()(layers.Embedding(2, 2)(b))])
    path = tmp_path_factory.mktemp("files") / "model.tflite"
    force_tf.export_tflite(keras.Model([a, b], layers.Dense(2)(joined)), path, verbose=False)
    return path


def test_both_modes_are_timed(path, capfd):
    latency = force_tf.benchmark_tflite(path, threads=2, runs=10)
    with pytest.raises(TypeError, match="positional"):
        force_tf.benchmark_tflite(path, 2)
    for mode in (latency.default, latency.without_delegate, latency):
        assert 0 < mode.minimum <= mode.lower_quartile <= mode.median <= mode.upper_quartile
        assert mode.peak_memory > 0
    assert latency.median == latency.default.median
    assert (latency.path, latency.threads, latency.runs) == (str(path), 2, 10)
    assert latency.runtime == f"ai-edge-litert {importlib.import_module('ai_edge_litert').__version__}"
    assert latency.failures == {}
    assert capfd.readouterr() == ("", "")


def test_times_are_in_milliseconds(path, runtime):
    runtime(invoke="time.sleep(0.02)")
    latency = force_tf.benchmark_tflite(path, runs=2)
    assert latency.minimum >= 20
    assert latency.without_delegate.minimum >= 20


def test_as_text_and_as_json(path):
    latency = force_tf.benchmark_tflite(path, runs=2)
    assert f"default delegate  {latency.median:.3f} ms" in str(latency)
    assert f"without delegate  {latency.without_delegate.median:.3f} ms" in str(latency)
    loaded = json.loads(json.dumps(latency.to_dict()))
    assert loaded["default"]["median"] == latency.median
    assert loaded["without_delegate"]["peak_memory"] == latency.without_delegate.peak_memory


def test_memory_is_that_of_the_file_and_not_of_this_process(tmp_path):
    width = 2048
    model = keras.Sequential([keras.Input((width,)), layers.Dense(width)])
    (tmp_path / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    weights = 4 * width * width
    latency = force_tf.benchmark_tflite(tmp_path / "model.tflite", runs=2)
    for mode in (latency.default, latency.without_delegate):
        # The delegate holds a second copy of them. TensorFlow would take ten times as much.
        assert weights < mode.peak_memory < 4 * weights


def test_the_measured_process_does_not_import_tensorflow(path, tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('tensorflow has been imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert force_tf.benchmark_tflite(path, runs=1).failures == {}


def test_tensorflow_runs_files_where_litert_is_missing(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)  # what makes its import fail
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's interpreter announces that it will go
        result = time_calls.measure(str(path), threads=1, runs=3, delegate=False)
    assert result["runtime"] == f"tensorflow {tf.__version__}"
    assert len(result["milliseconds"]) == 3


def test_sparse_int8_file_runs_wherever_the_interpreter_runs_it(tmp_path):
    model = keras.Sequential([keras.Input((20,)), layers.Dense(300, "relu"), layers.Dense(3)])
    kernel = model.layers[0].kernel
    kernel.assign(kernel.numpy() * (np.random.default_rng(0).random(kernel.shape) > 0.95))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    path = tmp_path / "model.tflite"
    path.write_bytes(converter.convert())
    latency = force_tf.benchmark_tflite(path, runs=2)
    resolvers = importlib.import_module("ai_edge_litert.interpreter").OpResolverType
    expected = {
        "default": _failure(path, resolvers.AUTO),
        "without_delegate": _failure(path, resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES),
    }
    assert latency.failures == {mode: failure for mode, failure in expected.items() if failure}
    for mode, failure in expected.items():
        assert (getattr(latency, mode) is None) == bool(failure)


def _failure(path, resolver):
    litert = importlib.import_module("ai_edge_litert.interpreter")
    try:
        litert.Interpreter(str(path), experimental_op_resolver_type=resolver).allocate_tensors()
    except RuntimeError as error:
        return " ".join(str(error).split())
    return None


def test_a_mode_that_fails_is_reported(path, runtime):
    runtime(load="if delegate: raise RuntimeError('failed to\\nprepare')")
    latency = force_tf.benchmark_tflite(path, runs=2)
    assert latency.default is None
    assert latency.median is None
    assert latency.peak_memory is None
    assert latency.failures == {"default": "failed to prepare"}
    assert latency.without_delegate.median > 0
    assert "default delegate  does not run: failed to prepare" in str(latency)
    assert json.loads(json.dumps(latency.to_dict()))["default"] is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        ("raise MemoryError('no room')", "MemoryError: no room"),
        ("os._exit(3)", "ended with the code 3"),
    ],
)
def test_a_process_that_ends_is_an_error_that_says_how(fault, reason, path, runtime, capfd):
    runtime(invoke=fault)
    with pytest.raises(ValueError, match=rf"^Expected a TFLite file.*\(.*{reason}\)\. Received: ") as caught:
        force_tf.benchmark_tflite(path, runs=1)
    assert str(caught.value).count(reason) == 1, "the same reason in both modes"
    assert capfd.readouterr() == ("", "")


def test_interruption_ends_the_measured_process(path, runtime, tmp_path):
    mark = tmp_path / "process"
    runtime(invoke=f"open({str(mark)!r}, 'w').write(str(os.getpid()) + '\\n'); time.sleep(100)")

    def interrupt():
        while not (mark.exists() and mark.read_text().endswith("\n")):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            force_tf.benchmark_tflite(path, runs=1)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.parametrize(
    ("options", "error", "received"),
    [
        ({"runs": 0}, ValueError, "Received: runs=0"),
        ({"threads": -1}, ValueError, "Received: threads=-1"),
        ({"threads": "2"}, TypeError, "Received: threads='2'"),
    ],
)
def test_options_that_do_not_fit(options, error, received, path):
    with pytest.raises(error, match=f"^Expected `{next(iter(options))}`.*{received}"):
        force_tf.benchmark_tflite(path, **options)


def test_what_is_no_tflite_file(tmp_path, capfd):
    path = tmp_path / "model.tflite"
    with pytest.raises(FileNotFoundError, match=r"^Expected a TFLite file.*which does not exist"):
        force_tf.benchmark_tflite(path)
    path.write_bytes(b"this is no model")
    with pytest.raises(
        ValueError, match=r"^Expected a TFLite file that the interpreter can run \(.*Received: '.*tflite'"
    ):
        force_tf.benchmark_tflite(path)
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert capfd.readouterr() == ("", "")
