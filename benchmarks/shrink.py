"""Prints the table of docs/shrink.md: what removing dead channels saves, in `fit` and on the device.

    python benchmarks/shrink.py --data_dir=... --output=shrink.jsonl --networks=vgg19 --methods=force

Masks are searched on real batches of CIFAR-10, the network is shrunk, and the dense and the shrunk network are measured
in turns, in one process each for `fit`, and in processes of their own for LiteRT. What --output holds is not measured
again, so that rows may be added one after another.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import force_tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
import image_data
import networks

_NETWORKS = flags.DEFINE_list("networks", ["vgg19", "resnet50"], "Networks of examples/networks.py.")
_METHODS = flags.DEFINE_list("methods", ["force", "iter_snip"], "Methods of PruneAtInit.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.95", "0.98", "0.99", "0.995", "0.999"], "Final sparsities.")
_STEPS = flags.DEFINE_integer("steps", 60, "Steps of the search.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch of the search and of `fit`.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed pairs of `fit` runs of three steps each.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 30, "Timed calls of each TFLite file.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps CIFAR-10.")
_OUTPUT = flags.DEFINE_string("output", "shrink.jsonl", "A file with a line for each row of the table.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights and of the batches.")

_FIT_STEPS = 3
_CALIBRATION_IMAGES = 64
_HEAD = ("Network", "Method", "Sparsity", "Effective", "Parameters", "FLOPs", "`fit` step", "float32 latency")
_HEAD += ("int8 latency", "float32 file", "int8 file", "Difference")


def main(argv: list[str]) -> None:
    del argv
    output = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(row["network"], row["method"], row["sparsity"]) for row in rows}
    data = image_data.load("cifar10", _DATA_DIR.value)
    for network in _NETWORKS.value:
        for method in _METHODS.value:
            for sparsity in map(float, _SPARSITIES.value):
                if (network, method, sparsity) not in done:
                    print(f"{network}, {method}, {sparsity:.1%}", file=sys.stderr)
                    rows.append(
                        {"network": network, "method": method, "sparsity": sparsity}
                        | measure(network, method, sparsity, data)
                    )
                    with output.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                    keras.backend.clear_session()
                    gc.collect()
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}")
    print(f"{_STEPS.value} steps of {_BATCH_SIZE.value} images; seed {_SEED.value}; ratios of dense to shrunk\n")
    print("\n".join(f"| {' | '.join(line)} |" for line in (_HEAD, ["---"] * len(_HEAD), *map(cells, rows))))


def measure(network: str, method: str, sparsity: float, data: image_data.ImageData) -> dict[str, Any]:
    """Returns a row of the table."""
    model = networks.build(network, data.input_shape, data.classes, seed=_SEED.value)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
    batches = data.train_batches(_BATCH_SIZE.value, _SEED.value)
    pruner = force_tf.PruneAtInit(method, sparsity, steps=_STEPS.value, seed=_SEED.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # the row says it
        pruned = pruner.prune(model, batches, verbose=2)
    try:
        small = force_tf.shrink(pruned)
    except force_tf.CollapsedError as error:
        return {"refusal": str(error)}
    images = np.asarray(data.normalize(data.test_images[:_CALIBRATION_IMAGES]))
    expected, received = (np.asarray(each.predict(images, verbose=0)) for each in (pruned, small))
    kept, total = force_tf.get_masks(small).kept, force_tf.get_masks(pruned).total
    return {
        "effective_sparsity": 1 - kept / total,
        "parameters": [parameters(model), parameters(force_tf.strip_pruning(small))],
        "flops": [2 * force_tf.count_flops(each) for each in (model, force_tf.strip_pruning(small))],
        "fit": fit_times(model, small, batches).tolist(),
        "float32": files(model, small, None, images),
        "int8": files(model, small, "int8", images),
        "difference": float(np.abs(received - expected).max() / np.abs(expected).max()),
    }


def parameters(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def fit_times(dense: keras.Model, small: keras.Model, batches: tf.data.Dataset) -> np.ndarray:
    """Returns seconds per step of `fit`, of shape (rounds, 2): of the dense and of the shrunk network, in turns."""
    held = [np.concatenate(part) for part in zip(*batches.take(_FIT_STEPS).as_numpy_iterator())]
    data = tf.data.Dataset.from_tensor_slices(tuple(held)).batch(_BATCH_SIZE.value).cache()
    models = (dense, small)
    for model in models:
        model.fit(data, verbose=0, shuffle=False)  # traces, and fills the cache
    times = np.empty((_ROUNDS.value, 2))
    for number in range(_ROUNDS.value):
        for place in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            models[place].fit(data, verbose=0, shuffle=False)
            times[number, place] = time.perf_counter() - start
    return times / _FIT_STEPS


def files(dense: keras.Model, small: keras.Model, quantize: str | None, images: np.ndarray) -> dict[str, Any]:
    """Returns the sizes of both networks' TFLite files in bytes, and their median latencies in milliseconds."""
    sizes, latencies = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.tflite")
        for model in (dense, small):
            options = {"quantize": quantize, "representative_data": images, "verify_data": images[:8]}
            sizes.append(force_tf.export_tflite(model, path, **options, verbose=False).bytes)
            latency = force_tf.benchmark_tflite(path, threads=1, runs=_RUNS.value)
            latencies.append([latency.lower_quartile, latency.median, latency.upper_quartile])
    return {"bytes": sizes, "latency": latencies}


def cells(row: dict[str, Any]) -> list[str]:
    start = [row["network"], row["method"], f"{row['sparsity']:.1%}"]
    if "refusal" in row:
        return [*start, "collapsed", *["–"] * (len(_HEAD) - 4)]
    times = np.asarray(row["fit"])
    low, median, high = np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))
    dense, small = np.median(times, axis=0)
    return [
        *start,
        f"{row['effective_sparsity']:.2%}",
        *(f"{row[what][0] / row[what][1]:.1f}×" for what in ("parameters", "flops")),
        f"{median:.2f}× ({low:.2f}–{high:.2f}; {1e3 * dense:.0f} → {1e3 * small:.0f} ms)",
        *(latency(row[what]["latency"]) for what in ("float32", "int8")),
        *(f"{row[what]['bytes'][0] / row[what]['bytes'][1]:.1f}×" for what in ("float32", "int8")),
        f"{row['difference']:.0e}",
    ]


def latency(quartiles: list[list[float]]) -> str:
    (_, dense, _), (_, small, _) = quartiles
    return f"{dense / small:.2f}× ({dense:.2f} → {small:.2f} ms)"


if __name__ == "__main__":
    app.run(main)
