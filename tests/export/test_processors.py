"""Files that are verified on other processors than that of this machine, told by a folder."""

import json
import platform

import keras
import numpy as np
import pytest

import force_tf

_WRONG = """
import collections, numpy
class Interpreter:
    def __init__(self, **arguments): pass
    def get_signature_runner(self): return self
    def get_input_details(self): return collections.defaultdict(lambda: {"dtype": "float32", "quantization": (0, 0)})
    def get_output_details(self): return {"output_0": {"quantization": (0, 0)}}
    def reset_all_variables(self): pass
    def __call__(self, **inputs): return {"output_0": numpy.full((1, 3), 9, "float32")}
"""


def folder_of(path, *commands):
    described = [{"name": f"processor {i}", "command": command} for i, command in enumerate(commands)]
    (path / "processors.json").write_text(json.dumps(described))
    return path


def small(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])


def test_the_report_says_on_which_processors_a_file_was_verified(tmp_path):
    folder = folder_of(tmp_path, ["{python}"], ["env", "A=1", "{python}"])
    path = tmp_path / "model.tflite"
    report = force_tf.export_tflite(small(), path, verify_on=folder, verbose=False)
    assert report.verified_on == (platform.machine(), "processor 0", "processor 1")
    assert "processor 0, processor 1" in report.details()
    assert force_tf.export_tflite(small(), path, verbose=False).verified_on == (platform.machine(),)


def test_what_comes_out_wrong_there_is_not_written(tmp_path):
    # A runtime that computes something else, in the place of LiteRT's.
    package = tmp_path / "modules" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(_WRONG)
    folder = folder_of(tmp_path, ["env", f"PYTHONPATH={package.parent}", "{python}"])
    with pytest.raises(ValueError, match=r"Received: outputs on processor 0 that differ by up to .* No file was"):
        force_tf.export_tflite(small(), tmp_path / "model.tflite", verify_on=folder, verbose=False)
    assert not (tmp_path / "model.tflite").exists()


def test_a_file_that_does_not_load_there_is_not_written(tmp_path):
    folder = folder_of(tmp_path, ["env", "-i", "sh", "-c", "kill -ILL $$"])
    with pytest.raises(ValueError, match=r"Expected a file that runs on processor 0. Received: .*SIGILL"):
        force_tf.export_tflite(small(), tmp_path / "model.tflite", verify_on=folder, verbose=False)
    assert not (tmp_path / "model.tflite").exists()


def test_a_folder_without_processors_fails_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"Expected `verify_on` to be a folder of emulated processors.*Received: "):
        force_tf.export_tflite(small(), tmp_path / "model.tflite", verify_on=tmp_path)
    (tmp_path / "processors.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected `verify_on` to be a folder of emulated processors.*Received: "):
        force_tf.export_tflite(small(), tmp_path / "model.tflite", verify_on=tmp_path)


def test_only_the_first_samples_run_there(tmp_path):
    folder = folder_of(tmp_path, ["sh", "-c", f'echo run >> {tmp_path}/runs; exec {{python}} "$@"', "sh"])
    data = np.random.default_rng(0).standard_normal((50, 4)).astype("float32")
    report = force_tf.export_tflite(
        small(), tmp_path / "model.tflite", verify_on=folder, verify_data=data, verbose=False
    )
    assert report.samples == 50
    assert (tmp_path / "runs").read_text() == "run\n"
