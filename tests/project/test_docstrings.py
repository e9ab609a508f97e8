"""The examples in docstrings run, and those with `>>>` give what they say."""

import ast
import doctest
import importlib
import pathlib
import re
import tempfile
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from matplotlib import pyplot

import force_tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")
# What these print is measured: of their numbers only the form counts.
MEASURED = {"force_tf.export.benchmark", "force_tf.export.evaluate", "force_tf.export.tflite"}


def docstrings():
    for path in sorted((ROOT / "force_tf").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module.startswith("force_tf.export.programs"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                name = f"{module}.{getattr(node, 'name', '')}".rstrip(".")
                yield name, module, ast.get_docstring(node)


DOCSTRINGS = list(docstrings())
PROMPTS = [case for case in DOCSTRINGS if ">>> " in case[2]]
FENCED = [case for case in DOCSTRINGS if FENCE.search(case[2])]


def digits_like():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)


@pytest.fixture(scope="module")
def file():
    """The content of a TFLite file of a network for the data."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    with tempfile.TemporaryDirectory() as folder:
        force_tf.export_tflite(model, f"{folder}/model.tflite", verbose=False)
        return pathlib.Path(folder, "model.tflite").read_bytes()


@pytest.fixture
def names(file, tmp_path, monkeypatch):
    """What examples take for granted: a compiled model, data, masks, a pruned model and a file of it."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("model.tflite").write_bytes(file)
    x, y = digits_like()
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    snip_masks = force_tf.PruneAtInit("snip", sparsity=0.5, seed=0).find_masks(model, (x, y), verbose=0)
    pruner = force_tf.PruneAtInit("force", sparsity=0.5, steps=3, seed=0)
    masks = pruner.find_masks(model, (x, y), verbose=0)
    yield {
        "force_tf": force_tf,
        "keras": keras,
        "tf_keras": tf_keras,
        "tf": tf,
        "np": np,
        "plt": pyplot,
        "model": model,
        "x": x,
        "y": y,
        "x_train": x,
        "y_train": y,
        "x_test": x,
        "y_test": y,
        "loss": model.loss,
        "data": tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        "pruned": force_tf.apply_masks(model, masks),
        "masks": masks,
        "snip_masks": snip_masks,
        "force_masks": masks,
        "pruner": pruner,
    }
    pyplot.close("all")


class Checker(doctest.OutputChecker):
    def __init__(self, measured):
        self.measured = measured

    def check_output(self, want, got, optionflags):
        if self.measured:
            want, got = (NUMBER.sub("0.0", text) for text in (want, got))
        return super().check_output(want, got, optionflags)


@pytest.mark.parametrize(("name", "module", "text"), PROMPTS, ids=[case[0] for case in PROMPTS])
def test_prompts(names, name, module, text):
    test = doctest.DocTestParser().get_doctest(text, {**names, **vars(importlib.import_module(module))}, name, None, 0)
    said = []
    runner = doctest.DocTestRunner(Checker(module in MEASURED), optionflags=doctest.ELLIPSIS)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # the network is tiny
@pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated")  # by tfmot
@pytest.mark.parametrize(("name", "module", "text"), FENCED, ids=[case[0] for case in FENCED])
def test_fenced_code(names, name, module, text):
    if module.startswith("force_tf.layers.tf"):
        names["model"] = tf_keras.Sequential(
            [tf_keras.Input((8,)), tf_keras.layers.Dense(16), tf_keras.layers.Dense(3)]
        )
        names["masks"] = force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(names["model"], verbose=0)
    for source in FENCE.findall(text):
        exec(compile(textwrap.dedent(source), name, "exec"), {**names, **vars(importlib.import_module(module))})
