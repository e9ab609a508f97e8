"""A type checker understands the public signatures: it lets right code pass and finds planted mistakes."""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import force_tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What a user writes. A line that a checker must refuse ends with the kind of mistake.
SNIPPET = """
import keras
import numpy as np

import force_tf

model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
masks = force_tf.Masks({"dense/kernel": np.ones((8, 4), bool)})
force_tf.Masks(3)  # arg-type

pruner = force_tf.PruneAtInit("force", sparsity=0.9, granularity=(1, 4), layers=lambda layer: True)
force_tf.PruneAtInit("force", sparsity="0.9")  # arg-type
force_tf.PruneAtInit("force", sparcity=0.9)  # call-arg
force_tf.PruneAtInit("force", 0.9, None)  # call-arg
force_tf.PruneAtInit(force_tf.criteria.GraSP(temperature=100.0), seed=0)
force_tf.PruneAtInit(force_tf.criteria.GraSP(temperature="hot"))  # arg-type

found: force_tf.Masks = pruner.find_masks(model, None, batch_size=32)
wrong: str = pruner.find_masks(model)  # assignment
total: int = found.total + masks.kept
masks.keept  # attr-defined
masks["dense/kernel"] = np.ones((8, 4))  # index
masks.save(0.5)  # arg-type

gmp = force_tf.callbacks.PruneDuringTraining("gmp", sparsity=0.8, begin=0, end=0.75)
force_tf.callbacks.PruneDuringTraining("gmp", swap=0.3)  # arg-type

report = force_tf.export_tflite(model, "model.tflite", quantize="int8")
report.bytes + force_tf.count_flops(model)
report.bytes + report.path  # operator
force_tf.export_tflite(model)  # call-arg
force_tf.benchmark_tflite("model.tflite").median / 2  # operator
force_tf.prune_at_init  # attr-defined
"""
CONFIG = """
[mypy]
show_error_codes = True
follow_imports = silent
[mypy-tensorflow.*,keras.*,tf_keras.*,scipy.*,matplotlib.*,tensorflow_model_optimization.*]
# Untyped or slow to follow: what they are is no matter here.
follow_imports = skip
ignore_missing_imports = True
"""


def test_planted_mistakes_are_found_and_nothing_else(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "snippet.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    found = re.findall(r"^snippet\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    planted = [
        (str(number), line.partition("  # ")[2]) for number, line in enumerate(SNIPPET.split("\n"), 1) if "  # " in line
    ]
    assert sorted(found) == sorted(planted), done.stdout + done.stderr


def public_callables():
    """Yields all public functions and methods with their names, but what a class has by Keras's protocol."""
    for module in ("", "callbacks", "channels", "criteria", "layers", "plots", "schedules"):
        module = importlib.import_module(f"force_tf.{module}".rstrip("."))
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield f"{module.__name__}.{name}", thing
            elif inspect.isclass(thing):
                for attribute, value in vars(thing).items():
                    value = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
                    is_protocol = attribute != "__init__" and any(
                        hasattr(base, attribute) for base in thing.__mro__[1:]
                    )
                    own = inspect.isfunction(value) and value.__module__.startswith("force_tf") and not is_protocol
                    if own and (attribute == "__init__" or not attribute.startswith("_")):
                        yield f"{module.__name__}.{name}.{attribute}", value


def test_public_signatures_are_annotated():
    assert force_tf.__all__
    without = {}
    for name, function in public_callables():
        signature = inspect.signature(function)
        missing = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        if signature.return_annotation is signature.empty and not name.endswith("__init__"):
            missing.append("return")
        if missing:
            without[name] = missing
    assert without == {}
