"""Prints the tables of docs/edge.md: TFLite files of six networks at four sparsities, in every quantization.

    python benchmarks/edge.py --output=bytes.jsonl --nolatency
    python benchmarks/edge.py --output=latency.jsonl --method=snip --scope=layer --noall_weights

For each: bytes, bytes after gzip, how far the outputs are from those of the Keras model, and the latency of LiteRT with
and without its default delegate, which wants an idle machine. The weights are random, and so is the data on which they
are pruned: bytes and latency do not depend on what a network has learned. Batch normalization gets the statistics of
that data, without which the activations of an untrained network vanish. What --output holds is not measured again.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import keras
import numpy as np
from absl import flags

import force_tf
from force_tf.export.convert import QUANTIZATIONS
from force_tf.search.presets import PRESETS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
import networks
from batch_statistics import set_statistics
from list_flags import check_fractions, check_names
from script import run_script

layers = keras.layers
_CLASSES, _TOKENS, _LENGTH = 10, 1000, 64
_CALIBRATION_SAMPLES = 16


def lstm() -> keras.Model:
    """Two LSTMs over 49 frames of 40 filter-bank features, as for keyword spotting."""
    stack = [
        layers.LSTM(256, return_sequences=True, name="first"),
        layers.LSTM(256, name="second"),
        layers.Dense(_CLASSES, name="logits"),
    ]
    return keras.Sequential([keras.Input((49, 40)), *stack], name="lstm")


def transformer() -> keras.Model:
    """Four encoder blocks of width 128 over 64 tokens."""
    tokens = keras.Input((_LENGTH,), dtype="int32", name="tokens")
    x = layers.Embedding(_TOKENS, 128, name="embedding")(tokens)
    for block in range(4):
        y = layers.LayerNormalization(name=f"norm_{block}_a")(x)
        x = layers.Add(name=f"add_{block}_a")([x, layers.MultiHeadAttention(4, 32, name=f"attention_{block}")(y, y)])
        y = layers.LayerNormalization(name=f"norm_{block}_b")(x)
        y = layers.Dense(512, activation="gelu", name=f"up_{block}")(y)
        x = layers.Add(name=f"add_{block}_b")([x, layers.Dense(128, name=f"down_{block}")(y)])
    x = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(tokens, layers.Dense(_CLASSES, name="logits")(x), name="transformer")


def application(name: str) -> Callable[[], keras.Model]:
    """Returns a function that builds a network of `keras.applications` for images of 224 x 224 pixels."""
    return lambda: getattr(keras.applications, name)(weights=None, classes=1000, classifier_activation=None)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "mobilenet_v2": application("MobileNetV2"),
    "efficientnet_b0": application("EfficientNetB0"),
    "resnet50_v2": application("ResNet50V2"),
    "vgg19_cifar": lambda: networks.build("vgg19", (32, 32, 3), classes=_CLASSES, seed=0),
    "lstm": lstm,
    "transformer": transformer,
}

_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), f"Networks to measure, of {', '.join(NETWORKS)}.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0", "0.9", "0.95", "0.99"], "Fractions of the weights to remove.")
_OUTPUT = flags.DEFINE_string("output", "edge.jsonl", "A file with a line for each network, sparsity and variant.")
_METHOD = flags.DEFINE_enum("method", "force", list(PRESETS), "Method of PruneAtInit.")
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of the search, if its method has several.", lower_bound=1)
_SCOPE = flags.DEFINE_enum("scope", "global", ["global", "layer"], "What weights are compared with.")
_ALL_WEIGHTS = flags.DEFINE_bool("all_weights", True, "Whether to prune depthwise kernels and embeddings too.")
_LATENCY = flags.DEFINE_bool("latency", True, "Whether to measure latencies.")
_RUNS = flags.DEFINE_integer("runs", 20, "Timed calls of each file, in each mode.", lower_bound=1)
check_names("networks", NETWORKS)
check_fractions("sparsities")


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(row["network"], row["sparsity"]) for row in rows}
    for name in _NETWORKS.value:
        for sparsity in map(float, _SPARSITIES.value):
            if (name, sparsity) not in done:
                measured = measure(name, sparsity)
                rows += measured
                with output.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in measured)
                keras.backend.clear_session()
                gc.collect()
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}")
    print(f"Latency: median of {_RUNS.value} calls of one sample, one thread, in a process of its own\n")
    for name in NETWORKS:
        found = [row for row in rows if row["network"] == name]
        if found:
            print(f"### {name}\n\n{table(found)}\n")


def measure(name: str, sparsity: float) -> list[dict[str, Any]]:
    """Returns a row for each variant of a network."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    inputs, targets = random_batch(model)
    if sparsity:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        pruner = force_tf.PruneAtInit(
            _METHOD.value,
            sparsity,
            steps=_STEPS.value if _METHOD.value in ("force", "iter_snip", "iter_grasp", "synflow") else None,
            scope=_SCOPE.value,
            layers=(lambda layer: True) if _ALL_WEIGHTS.value else None,
            seed=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # what a file takes does not depend on it
            model = pruner.prune(model, [(inputs, targets)], loss, verbose=0)
    set_statistics(model, inputs)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for quantize in QUANTIZATIONS:
            variant = quantize or "float32"
            print(f"{name} at {sparsity:.0%}: {variant}", file=sys.stderr)
            rows.append({"network": name, "sparsity": sparsity, "variant": variant})
            rows[-1].update(export(model, quantize, inputs, os.path.join(folder, "model.tflite")))
    return rows


def export(model: keras.Model, quantize: str | None, inputs: np.ndarray, path: str) -> dict[str, Any]:
    """Returns what the tables say of a file."""
    try:
        report = force_tf.export_tflite(
            model,
            path,
            quantize=quantize,
            representative_data=inputs,
            verify_data=inputs[:8],
            verbose=False,
        )
    except ValueError as error:
        return {"refusal": str(error)}
    latency = force_tf.benchmark_tflite(path, runs=_RUNS.value) if _LATENCY.value else None
    weights = [tensor for tensor in report.tensors if len(tensor.shape) > 1]
    modes = {"default": latency.default, "without": latency.without_delegate} if latency else {}
    return {
        "bytes": report.bytes,
        "gzip_bytes": report.gzip_bytes,
        "dense_bytes": report.dense_bytes,
        "dense_gzip_bytes": report.dense_gzip_bytes,
        "sparse_tensors": sum(tensor.sparse for tensor in weights),
        "tensors": len(weights),
        "difference": report.max_difference,
        "largest": float(np.abs(model.predict(inputs[:8], verbose=0)).max()),
        **{name: mode and dataclasses.asdict(mode) for name, mode in modes.items()},
    }


def random_batch(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs in the range that the model expects, and labels."""
    rng = np.random.default_rng(0)
    shape = (_CALIBRATION_SAMPLES, *model.input_shape[1:])
    if model.name == "transformer":
        inputs = rng.integers(0, _TOKENS, shape).astype("int32")
    elif model.name.startswith("efficientnet"):
        inputs = rng.uniform(0, 255, shape).astype("float32")  # it rescales its inputs itself
    else:
        inputs = rng.standard_normal(shape).astype("float32")
    return inputs, rng.integers(0, model.output_shape[-1], len(inputs))


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows of a network as a table in Markdown."""
    head = ["Sparsity", "File", "Bytes", "Dense / bytes", "gzip", "Dense / gzip", "Sparse tensors", "Difference"]
    if _LATENCY.value:
        head += ["Latency, ms", "Without delegate, ms", "Peak memory, MB"]
    lines = [head, ["---"] * len(head)]
    for row in sorted(rows, key=lambda row: row["sparsity"]):
        start = [f"{row['sparsity']:.0%}", row["variant"]]
        lines.append([*start, *cells(row)] if "bytes" in row else [*start, row["refusal"], *[""] * (len(head) - 3)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: dict[str, Any]) -> list[str]:
    found = [
        f"{row['bytes']:,}",
        f"{row['dense_bytes'] / row['bytes']:.1f}",
        f"{row['gzip_bytes']:,}",
        f"{row['dense_gzip_bytes'] / row['gzip_bytes']:.1f}",
        f"{row['sparse_tensors']} of {row['tensors']}",
        # Relative to the outputs, which random weights may make large or small.
        f"{row['difference'] / row['largest']:.0e}" if row["largest"] else "–",
    ]
    if not _LATENCY.value:
        return found
    mode = row["default"]
    memory = "–" if mode is None or mode["peak_memory"] is None else f"{mode['peak_memory'] / 1e6:.1f}"
    return [*found, *(spread(row[mode]) for mode in ("default", "without")), memory]


def spread(mode: dict[str, Any] | None) -> str:
    if mode is None:
        return "does not run"
    return f"{mode['median']:.2f} ({mode['lower_quartile']:.2f}–{mode['upper_quartile']:.2f})"


if __name__ == "__main__":
    run_script(main, "--sparsities=0.9", "Run the same command again to go on.")
