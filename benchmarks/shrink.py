"""Prints the table of docs/shrink.md: what removing channels saves, in `fit` and on the device.

    python benchmarks/shrink.py --data_dir=... --work_dir=shrink --output=shrink.jsonl --networks=vgg19 --methods=force

Masks are searched on real batches of CIFAR-10, by FORCE and Iterative SNIP, and by the latter for whole channels. The
network is shrunk, and the dense and the shrunk network are measured in turns: `fit` in this process, and LiteRT in
processes of their own. What --work_dir and --output hold is not searched and not measured again, so that a run may be
continued; --search_only leaves the measuring to a time when the machine is idle.
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
from absl import flags

import force_tf
from force_tf.search.presets import PRESETS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
import image_data
import networks
from batch_statistics import set_statistics
from list_flags import check_fractions, check_names
from script import run_script

_NETWORKS = flags.DEFINE_list("networks", ["vgg19", "resnet50"], "Networks of examples/networks.py.")
_METHODS = flags.DEFINE_list("methods", ["force", "iter_snip", "channel"], "Methods; channel: iter_snip of channels.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.95", "0.98", "0.99", "0.995", "0.999"], "Sparsities of weights.")
_CHANNEL_SPARSITIES = flags.DEFINE_list("channel_sparsities", ["0.5", "0.7", "0.9"], "Sparsities of whole channels.")
_STEPS = flags.DEFINE_integer("steps", 60, "Steps of the search.", lower_bound=1)
_SEARCH_BATCH_SIZE = flags.DEFINE_integer("search_batch_size", 128, "Images in a step of the search.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a step of `fit`.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed pairs of `fit` runs of three steps each.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 30, "Timed calls of each TFLite file.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps CIFAR-10.")
_WORK_DIR = flags.DEFINE_string("work_dir", "shrink", "A folder for masks and for the files of dense networks.")
_SEARCH_ONLY = flags.DEFINE_bool("search_only", False, "Whether to search masks and measure nothing.")
_OUTPUT = flags.DEFINE_string("output", "shrink.jsonl", "A file with a line for each row of the table.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights and of the batches.")
check_names("networks", networks.NAMES)
check_names("methods", (*PRESETS, "channel"))
check_fractions("sparsities")
check_fractions("channel_sparsities")

_FIT_STEPS = 3
_CALIBRATION_IMAGES = 64
_HEAD = ("Network", "Method", "Sparsity", "Effective", "Parameters", "FLOPs", "`fit` step", "float32 latency")
_HEAD += ("int8 latency", "float32 file", "int8 file", "Difference")


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(row["network"], row["method"], row["sparsity"]) for row in rows}
    data = image_data.load("cifar10", _DATA_DIR.value)
    for case in cases():
        if case in done:
            continue
        print("{}, {}, {:.1%}".format(*case), file=sys.stderr)
        model = dense_network(case[0], data)
        masks = find_masks(model, *case, data)
        if not _SEARCH_ONLY.value:
            rows.append(dict(zip(("network", "method", "sparsity"), case)) | measure(model, masks, data))
            with output.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        keras.backend.clear_session()
        gc.collect()
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}")
    print(f"{_STEPS.value} steps of {_SEARCH_BATCH_SIZE.value} images; seed {_SEED.value}; ratios of dense to shrunk\n")
    print("\n".join(f"| {' | '.join(line)} |" for line in (_HEAD, ["---"] * len(_HEAD), *map(cells, rows))))


def cases() -> list[tuple[str, str, float]]:
    """Returns the rows of the table to measure: network, method and sparsity."""
    sparsities = dict.fromkeys(_METHODS.value, _SPARSITIES.value) | {"channel": _CHANNEL_SPARSITIES.value}
    return [
        (network, method, float(sparsity))
        for network in _NETWORKS.value
        for method in _METHODS.value
        for sparsity in sparsities[method]
    ]


def dense_network(network: str, data: image_data.ImageData) -> keras.Model:
    model = networks.build(network, data.input_shape, data.classes, seed=_SEED.value)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
    return model


def find_masks(
    model: keras.Model, network: str, method: str, sparsity: float, data: image_data.ImageData
) -> force_tf.Masks:
    """Returns the masks of a case, from a file if there is one."""
    path = pathlib.Path(_WORK_DIR.value) / f"{network}-{method}-{sparsity}.masks"
    if path.exists():
        return force_tf.Masks.load(path)
    name, granularity = ("iter_snip", "channel") if method == "channel" else (method, "weight")
    pruner = force_tf.PruneAtInit(name, sparsity, steps=_STEPS.value, granularity=granularity, seed=_SEED.value)
    batches = data.train_batches(_SEARCH_BATCH_SIZE.value, _SEED.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # the row says it
        masks = pruner.find_masks(model, batches, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    masks.save(path)
    return masks


def measure(model: keras.Model, masks: force_tf.Masks, data: image_data.ImageData) -> dict[str, Any]:
    """Returns what a row of the table says of a network and its shrunk form."""
    images = np.asarray(data.normalize(data.test_images[:_CALIBRATION_IMAGES]))
    pruned = force_tf.apply_masks(model, masks)
    for each in (model, pruned):
        set_statistics(each, images)
    try:
        small = force_tf.shrink(pruned)
    except force_tf.CollapsedError as error:
        return {"refusal": str(error)}
    expected, received = (np.asarray(each.predict(images, verbose=0)) for each in (pruned, small))
    plain = force_tf.strip_pruning(small)
    return {
        "effective_sparsity": 1 - force_tf.get_masks(small).kept / masks.total,
        "parameters": [parameters(model), parameters(plain)],
        "flops": [2 * force_tf.count_flops(each) for each in (model, plain)],
        "fit": fit_times(model, small, data.train_batches(_BATCH_SIZE.value, _SEED.value)).tolist(),
        "float32": files(model, small, None, images),
        "int8": files(model, small, "int8", images),
        "difference": float(np.abs(received - expected).max() / np.abs(expected).max()),
    }


def parameters(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


class StepTimes(keras.callbacks.Callback):
    """Times the steps of `fit`; around an epoch TensorFlow may wait for seconds, whatever the network."""

    def __init__(self):
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


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
            timer = StepTimes()
            models[place].fit(data, verbose=0, shuffle=False, callbacks=[timer])
            times[number, place] = np.mean(timer.seconds)
    return times


def files(dense: keras.Model, small: keras.Model, quantize: str | None, images: np.ndarray) -> dict[str, Any]:
    """Returns the sizes of both networks' TFLite files in bytes, and their median latencies in milliseconds."""
    options = {"quantize": quantize, "representative_data": images, "verify_data": images[:8], "verbose": False}
    kept = pathlib.Path(_WORK_DIR.value) / f"{dense.name}-{quantize}.tflite"
    if not kept.exists():
        force_tf.export_tflite(dense, kept, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.tflite")
        try:
            force_tf.export_tflite(small, path, **options)
        except ValueError as error:
            return {"refusal": str(error)}
        found = [force_tf.benchmark_tflite(file, threads=1, runs=_RUNS.value) for file in (kept, path)]
        sizes = [os.path.getsize(file) for file in (kept, path)]
    latencies = [[each.lower_quartile, each.median, each.upper_quartile] for each in found]
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
        *(latency(row[what]) for what in ("float32", "int8")),
        *(size(row[what]) for what in ("float32", "int8")),
        f"{row['difference']:.0e}",
    ]


def latency(file: dict[str, Any]) -> str:
    if "refusal" in file:
        return "refused"
    (_, dense, _), (_, small, _) = file["latency"]
    return f"{dense / small:.2f}× ({dense:.2f} → {small:.2f} ms)"


def size(file: dict[str, Any]) -> str:
    if "refusal" in file:
        return "refused"
    dense, small = file["bytes"]
    return f"{dense / small:.1f}×"


if __name__ == "__main__":
    run_script(main, "--sparsities=0.99", "Run the same command again to go on.")
