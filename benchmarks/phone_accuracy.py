"""Trains small MobileNets for phones: the test accuracy of their files over the time that these take on emulated Arm.

    python benchmarks/phone_accuracy.py --output=phone_accuracy.jsonl --plot=phone_accuracy.png --emulators=.emulators

A MobileNet and a MobileNetV2 (`mobilenets.py`) learn a part of CIFAR-10: dense; with weights of the layers that
`sparse_kernel_layers` names pruned before the training by FORCE and SNIP, and during it by GMP; and with whole channels
pruned by SNIP before the training and removed. All see the same batches, in the protocol of the FORCE paper with fewer
epochs. Then each is exported, the dense and the shrunk ones in 8 bits too, and the files are evaluated on all test
images and timed as `emulated.py` says. A finished training is a line of the output: the same command goes on after an
interruption, and draws the plot of what is there.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import compared_methods
import emulated
import image_data
import keras
import mobilenets
import numpy as np
import tensorflow as tf
from absl import flags
from figures import new_figure
from list_flags import check_fractions, check_names
from script import run_script
from training import cross_entropy, train

import force_tf

CHANNELS = "channels"
_METHODS_KNOWN = ("dense", "force", "snip", "gmp", CHANNELS)
_LABELS = {"force": "FORCE", "snip": "SNIP", "gmp": "GMP", CHANNELS: "channels"}
_BATCH, _CALIBRATION = 128, 200

_NETWORKS = flags.DEFINE_list("networks", list(mobilenets.NAMES), "Networks to train.")
_METHODS = flags.DEFINE_list("methods", list(_METHODS_KNOWN), "How to make them faster.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.8", "0.9"], "Fractions of the named layers' weights to remove.")
_CHANNEL_SPARSITIES = flags.DEFINE_list("channel_sparsities", ["0.5", "0.8"], "Fractions to remove as channels.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds of weights and batches.", lower_bound=1)
_ALPHA = flags.DEFINE_float("alpha", 0.25, "The part of the papers' channels.", lower_bound=0.01)
_EPOCHS = flags.DEFINE_integer("epochs", 6, "How often every training image is seen.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0)
_LIMIT = flags.DEFINE_integer("limit", 20_000, "How many training images to use.", lower_bound=_BATCH)
_TEST_LIMIT = flags.DEFINE_integer("test_limit", 10_000, "How many test images to use.", lower_bound=_BATCH)
_DATASET = flags.DEFINE_enum("dataset", "cifar10", ["cifar10", "digits"], "The images to learn; digits are enlarged.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
_EMULATORS = flags.DEFINE_string("emulators", None, "The folder of emulated processors. Default: none.")
_THREADS = flags.DEFINE_integer("threads", None, "Threads for TensorFlow. Default: as it likes.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "phone_accuracy.jsonl", "A file with a line for each training.")
_PLOT = flags.DEFINE_string("plot", None, "Where the plot goes. Default: none is drawn.")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Train nothing; print and draw what there is.")
check_names("networks", mobilenets.NAMES)
check_names("methods", _METHODS_KNOWN)
check_fractions("sparsities")
check_fractions("channel_sparsities")


def main() -> None:
    if _THREADS.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    output = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    missing = [case for case in cases() if not any(case.items() <= row.items() for row in rows)]
    if missing and not _TABLES_ONLY.value:
        emulated.set_up(_EMULATORS.value)
        data = load()
        for case in missing:
            rows.append(case | outcome(case, data))
            with output.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], file=sys.stderr, flush=True)
            keras.backend.clear_session()
            gc.collect()
    rows = [row for row in rows if any(case.items() <= row.items() for case in cases())]
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}\n")
    print(table(rows))
    if _PLOT.value:
        figure(rows).savefig(_PLOT.value)


def load() -> image_data.ImageData:
    """Returns the data, its images of 32x32 pixels in three colours."""
    data = image_data.load(_DATASET.value, _DATA_DIR.value)
    factor, colours = 32 // data.input_shape[0], 3 // data.input_shape[2]
    parts = {name: getattr(data, name) for name in ("train_images", "test_images")}
    for axis, times in ((1, factor), (2, factor), (3, colours)):
        parts = {name: images.repeat(times, axis) if times > 1 else images for name, images in parts.items()}
    return dataclasses.replace(data, **parts)


def cases() -> Iterator[dict[str, Any]]:
    """What distinguishes one training from another, for each of them; after a seed there is one of each."""
    training = {flag.name: flag.value for flag in (_ALPHA, _EPOCHS, _LEARNING_RATE, _LIMIT, _TEST_LIMIT)}
    sparsities = {"dense": ["0"], CHANNELS: _CHANNEL_SPARSITIES.value}
    for seed, method in itertools.product(range(_SEEDS.value), _METHODS.value):
        for sparsity, network in itertools.product(sparsities.get(method, _SPARSITIES.value), _NETWORKS.value):
            yield {"network": network, "method": method, "sparsity": float(sparsity), "seed": seed, **training}


def outcome(case: dict[str, Any], data: image_data.ImageData) -> dict[str, Any]:
    """Trains and exports a network, and returns what became of it."""
    images, labels = data.train_images[: case["limit"]], data.train_labels[: case["limit"]]
    # A tenth of the test images tells after each epoch how the training goes; the files are evaluated on all of them.
    tested = max(1, case["test_limit"] // 10)
    shown = {"test_images": data.test_images[:tested], "test_labels": data.test_labels[:tested]}
    part = dataclasses.replace(data, train_images=images, train_labels=labels, **shown)
    begin = time.process_time()
    model, callbacks = start(case, part)
    found: dict[str, Any] = {"search_seconds": time.process_time() - begin}
    settings = {"learning_rate": case["learning_rate"], "batch_size": _BATCH, "epochs": case["epochs"]}
    history = train(model, part, **settings, seed=case["seed"], callbacks=callbacks)
    found |= {"processor_seconds": time.process_time() - begin}
    found |= {"training_accuracy": history[-1]["accuracy"]}
    test = (np.asarray(part.normalize(data.test_images)), data.test_labels)
    test = tuple(array[: case["test_limit"]] for array in test)
    kinds = [None, "int8"] if case["method"] in ("dense", CHANNELS) else [None]
    calibration = np.asarray(part.normalize(images[:_CALIBRATION]))
    return found | {"files": {kind or "float32": file_of(model, kind, calibration, test) for kind in kinds}}


def start(case: dict[str, Any], data: image_data.ImageData) -> tuple[keras.Model, list[Any]]:
    """Returns the network to train, and the callbacks that this takes."""
    dense = mobilenets.build(case["network"], case["alpha"], data.classes, case["seed"])
    if case["method"] == CHANNELS:
        pruner = force_tf.PruneAtInit("snip", case["sparsity"], granularity="channel", seed=case["seed"])
        batches = data.train_batches(_BATCH, case["seed"])
        return force_tf.shrink(pruner.prune(dense, batches, cross_entropy(dense), verbose=0)), []
    method = {"sparsity": case["sparsity"], "batch": _BATCH, "seed": case["seed"]}
    layers = None if case["method"] == "dense" else force_tf.sparse_kernel_layers(dense)
    return compared_methods.start(case["method"], dense, data, **method, layers=layers)[:2]


def file_of(model: keras.Model, quantize: str | None, calibration: np.ndarray, test: tuple) -> dict[str, Any]:
    """Exports a network, and returns what its file does."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.tflite")
        report = force_tf.export_tflite(
            model,
            path,
            quantize=quantize,
            representative_data=calibration if quantize else None,
            verify_data=test[0][:8],
            verbose=False,
        )
        accuracy = force_tf.evaluate_tflite(path, test, metrics=["accuracy"], verbose=0)["accuracy"]
        times = emulated.times(path, _EMULATORS.value, 3)
    counts = report.multiply_adds
    facts = {"bytes": report.bytes, "sparse_kernels": counts.with_sparse_kernels, "multiply_adds": counts.on_phones}
    return {"accuracy": accuracy, "times": times, **facts}


def points(rows: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str, float, str], list[dict[str, Any]], int]]:
    """The files of each kind, one of each seed, with what they are: network, method, sparsity and type of numbers."""
    keys = dict.fromkeys(
        (row["network"], row["method"], row["sparsity"], kind) for row in rows for kind in row["files"]
    )
    for key in keys:
        files = [row["files"][key[3]] for row in rows if (row["network"], row["method"], row["sparsity"]) == key[:3]]
        yield key, files, len(files)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: means over the seeds, and from the lowest to the highest accuracy in brackets."""
    processors = list(dict.fromkeys(name for row in rows for file in row["files"].values() for name in file["times"]))
    heads = ["network", "pruned by", "zeros", "numbers", "test accuracy", "multiply-adds", "kB"]
    lines = [[*heads, *(f"{name}, ms" for name in processors)], ["---"] * (len(heads) + len(processors))]
    for (network, method, sparsity, kind), files, count in sorted(points(rows), key=lambda point: point[0]):
        accuracies = [100 * file["accuracy"] for file in files]
        spread = f" ({min(accuracies):.1f} to {max(accuracies):.1f})" if count > 1 else ""
        lines.append(
            [network, _LABELS.get(method, "–"), f"{sparsity:.0%}", kind, f"{np.mean(accuracies):.1f}%{spread}"]
        )
        lines[-1].append(f"{_mean(files, 'multiply_adds') / 1e6:.2f} M")
        lines[-1].append(f"{_mean(files, 'bytes') / 1000:,.0f}")
        lines[-1] += [
            f"{np.mean([file['times'][name] for file in files]):.{1 if name != emulated.THIS else 2}f}"
            for name in processors
        ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(files: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([file[name] for file in files]))


def figure(rows: list[dict[str, Any]]) -> Any:
    """Returns the plot of accuracy over time, a panel for each network; bars go from the worst to the best seed.

    Of the points of a line the left one, which takes less time, has more zeros.
    """
    processor = next(iter(rows[0]["files"]["float32"]["times"]))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    drawn, axes = new_figure(len(networks))
    labels: dict[str, int] = {}
    for network, ax in zip(networks, axes):
        lines: dict[str, list[tuple[float, float, float, float, float]]] = {}
        for (of, method, sparsity, kind), files, _ in points(rows):
            if of != network:
                continue
            label = f"{_LABELS.get(method, 'dense')} in int8" if kind == "int8" else _LABELS.get(method, "dense")
            accuracies = [100 * file["accuracy"] for file in files]
            milliseconds = float(np.mean([file["times"][processor] for file in files]))
            mean = float(np.mean(accuracies))
            lines.setdefault(label, []).append((milliseconds, mean, min(accuracies), max(accuracies), sparsity))
        for label, found in lines.items():
            number = labels.setdefault(label, len(labels))
            x, y, low, high, sparsity = map(np.array, zip(*sorted(found)))
            zeros = ", ".join(f"{each:.0%}" for each in sorted(sparsity) if each)
            style = {"marker": "osD^vPX"[number % 7], "color": force_tf.plots.COLORS[number % 7], "markersize": 8}
            ax.errorbar(x, y, (y - low, high - y), label=f"{label} ({zeros})" if zeros else label, **style)
        ax.set(title=network, xlabel=f"Milliseconds on {processor}", ylabel="Test accuracy (%)")
        ax.set_xlim(left=0)
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return drawn


if __name__ == "__main__":
    run_script(main, "--sparsities=0.9", "Run the same command again to go on.")
