"""Prints the tables of docs/edge.md on phones: the work of sparse files on emulated Arm and without AVX.

    python benchmarks/phones.py --output=phones.jsonl --emulators=.emulators

Networks of `keras.applications` with random weights, and a detector: dense, with random zeros in the layers that
`sparse_kernel_layers` names, and dense in 8 bits. Each file runs on emulated processors, which
`tools/setup_emulators.py` sets up first where they are missing (Debian, root), and on this machine. `emulated.py` says
what its times mean. What --output holds is not measured again; --tables_only prints its tables.
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
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import emulated
import keras
import numpy as np
from absl import flags
from batch_statistics import set_statistics

import force_tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from list_flags import check_counts, check_fractions, check_names
from script import run_script

layers = keras.layers
APPLICATIONS = ("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0")
DETECTOR = "detector on MobileNetV2"
# Of outputs of about 1. A random network gives all images nearly the same features, of which its batch normalization
# stretches the differences, and so what rounding did to them: the Keras model with rounded weights differs as much.
_FLOAT16_TOLERANCE = 0.1

_NETWORKS = flags.DEFINE_list("networks", [*APPLICATIONS, DETECTOR], "Networks to measure.")
_SIZES = flags.DEFINE_list("sizes", ["96"], "Heights and widths of their images.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.9", "0.7", "0.8", "0.95"], "Fractions of the weights to remove.")
_BLOCKS = flags.DEFINE_list(
    "blocks", ["1"], "Output channels that are pruned as one; more than 1 at the first sparsity."
)
_FLOAT16 = flags.DEFINE_bool("float16", True, "Whether to measure files of 16 bits too, at the first sparsity.")
_INT8 = flags.DEFINE_bool("int8", True, "Whether to measure dense files of 8 bits too.")
_EMULATORS = flags.DEFINE_string("emulators", ".emulators", "The folder of emulated processors; empty: none.")
_OUTPUT = flags.DEFINE_string("output", "phones.jsonl", "A file with a line for each network and variant.")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Whether to print the tables of --output, and measure nothing.")
_RUNS = flags.DEFINE_integer("runs", 3, "Timed calls of each file on an emulated processor.", lower_bound=1)
check_names("networks", (*APPLICATIONS, DETECTOR))
check_counts("sizes", 32)
check_fractions("sparsities")
check_counts("blocks")


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    if not _TABLES_ONLY.value:
        complete(rows, output)
        packages = ("tensorflow", "keras", "ai-edge-litert")
        versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
        print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}\n")
    elif not rows:
        raise ValueError(f"Expected rows that were measured. Received: --output={output}, which has none")
    print(tables(rows))


def complete(rows: list[dict[str, Any]], output: pathlib.Path) -> None:
    """Measures what is missing, and adds it to the rows and to the file."""
    folder = _EMULATORS.value or None
    emulated.set_up(folder)
    first = float(_SPARSITIES.value[0])
    variants = [(None, 0.0, 1)] + [(None, float(sparsity), 1) for sparsity in _SPARSITIES.value]
    variants += [("float16", first, 1)] * _FLOAT16.value + [("int8", 0.0, 1)] * _INT8.value
    variants += [(None, first, block) for block in map(int, _BLOCKS.value) if block > 1]
    # The most telling ones of all networks first.
    for quantize, sparsity, block in variants:
        for name in _NETWORKS.value:
            for size in map(int, _SIZES.value):
                key = {"network": name, "size": size, "quantize": quantize, "sparsity": sparsity, "block": block}
                if any(key.items() <= row.items() for row in rows):
                    continue
                rows.append(key | measure(name, size, quantize, sparsity, block, folder))
                with output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                keras.backend.clear_session()
                gc.collect()


def build(name: str, size: int) -> keras.Model:
    """Returns a network with random weights."""
    keras.utils.set_random_seed(0)
    if name == DETECTOR:
        return detector(size)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)


def detector(size: int) -> keras.Model:
    """Returns boxes and classes from two maps of a MobileNetV2, as an SSDLite head has them."""
    backbone = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(size, size, 3))
    maps = [backbone.get_layer(name).output for name in ("block_13_expand_relu", "out_relu")]
    outputs = []
    for what, channels in (("boxes", 24), ("classes", 126)):
        flat = []
        for number, x in enumerate(maps):
            x = layers.DepthwiseConv2D(3, padding="same", activation="relu6", name=f"{what}_{number}_depthwise")(x)
            x = layers.Conv2D(channels, 1, name=f"{what}_{number}")(x)
            flat.append(layers.Reshape((-1, channels // 6))(x))
        outputs.append(layers.Concatenate(axis=1, name=what)(flat))
    return keras.Model(backbone.input, outputs, name="detector")


def measure(
    name: str, size: int, quantize: str | None, sparsity: float, block: int, folder: str | None
) -> dict[str, Any]:
    """Returns what a file does: bytes, multiply-adds, differences and times."""
    model = build(name, size)
    x = np.random.default_rng(0).standard_normal((16, size, size, 3)).astype("float32")
    if sparsity:
        selected = force_tf.sparse_kernel_layers(model)
        granularity = "weight" if block == 1 else (1, block)
        pruner = force_tf.PruneAtInit(
            method="random", sparsity=sparsity, scope="layer", granularity=granularity, layers=selected, seed=0
        )
        masks = pruner.find_masks(model, verbose=0)
        model = force_tf.strip_pruning(force_tf.apply_masks(model, masks))
    set_statistics(model, x)
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "model.tflite")
        report = force_tf.export_tflite(
            model,
            path,
            quantize=quantize,
            representative_data=x if quantize == "int8" else None,
            sparse_kernels=sparsity > 0,
            tolerance=_FLOAT16_TOLERANCE if quantize == "float16" else None,
            verify_data=x[:1],
            verify_on=folder,
            verbose=False,
        )
        times = emulated.times(path, folder, _RUNS.value)
    counts = report.multiply_adds
    row = {"bytes": report.bytes, "difference": report.max_difference, "rewrites": report.rewrites, "times": times}
    row |= {"dense_multiply_adds": counts.dense, "multiply_adds": counts.on_phones}
    return row


def tables(rows: list[dict[str, Any]]) -> str:
    """Returns Markdown tables: times on each processor, bytes, multiply-adds and differences, a row per network."""
    wanted = [row for row in rows if row["network"] in _NETWORKS.value and str(row["size"]) in _SIZES.value]
    times = sorted({name for row in wanted for name in row["times"]}, key=lambda name: (name == emulated.THIS, name))
    parts = [
        # Ratios on this machine would need calls in turn.
        _table(wanted, f"{name}, ms", lambda row, name=name: row["times"].get(name), name != emulated.THIS)
        for name in times
    ]
    parts.append(_table(wanted, "kB", lambda row: row["bytes"] / 1000, False))
    parts.append(_table(wanted, "Multiply-adds on phones, millions", lambda row: row["multiply_adds"] / 1e6, True))
    return "\n\n".join(parts)


def _table(
    rows: list[dict[str, Any]], title: str, value: Callable[[dict[str, Any]], float | None], with_ratio: bool
) -> str:
    """Returns a table of one value, a column for each kind of file; with how many times less it is than dense."""
    kinds = [None, "float16", "int8"]
    columns = sorted({_variant(row) for row in rows}, key=lambda each: (kinds.index(each[0]), *each[1:]))
    lines = [f"| {' | '.join([title, *map(_head, columns)])} |", "|---" * (1 + len(columns)) + "|"]
    found = {(row["network"], row["size"], _variant(row)): value(row) for row in rows}
    for name in (*APPLICATIONS, DETECTOR):
        for size in sorted({row["size"] for row in rows if row["network"] == name}):
            dense = found.get((name, size, _DENSE))
            cells = []
            for column in columns:
                number = found.get((name, size, column))
                ratio = with_ratio and column != _DENSE and number is not None and dense is not None
                text = "–" if number is None else f"{number:,.{2 if number < 10 else 0}f}"
                cells.append(f"{text} ({dense / number:.1f}x)" if ratio else text)
            lines.append(f"| {' | '.join([f'{name}, {size}', *cells])} |")
    return "\n".join(lines)


_DENSE = (None, 0.0, 1)


def _variant(row: dict[str, Any]) -> tuple[str | None, float, int]:
    return row["quantize"], row["sparsity"], row["block"]


def _head(variant: tuple[str | None, float, int]) -> str:
    quantize, sparsity, block = variant
    words = [quantize or "", f"{sparsity:.0%}" if sparsity else "dense", f"in blocks of {block}" if block > 1 else ""]
    return " ".join(filter(None, words))


if __name__ == "__main__":
    run_script(main, "--sparsities=0.9", "Run the same command again to go on.")
