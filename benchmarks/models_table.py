"""Prints the table of docs/models.md: every family of `keras.applications` pruned, trained, saved, stripped, exported.

    python benchmarks/models_table.py --output=models.jsonl --families=MobileNet,ResNet

Times are CPU seconds of all threads, which say more than wall time on a machine that is shared. What --output holds is
not measured again, so that families may be added one after another.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import pathlib
import platform
import sys
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import applications
import keras
import numpy as np
import tensorflow as tf
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from list_flags import check_names
from script import run_script

_KERAS = flags.DEFINE_enum("keras", "keras", applications.KERASES, "The module with the Keras to use.")
_FAMILIES = flags.DEFINE_list("families", [], "Families to measure; all if empty.")
check_names("families", applications.FAMILIES, least=0)
_OUTPUT = flags.DEFINE_string("output", "models.jsonl", "A file with a line for each family that was measured.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.95, "Final sparsity of the search.", lower_bound=0.0, upper_bound=1.0)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of the search.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per step.", lower_bound=2)

_HEAD = (
    *("Family", "Network", "Input", "Weights", "Search, s", "First step, s", "Step, s", "`.keras`, MB"),
    *("TFLite, MB", "Dense TFLite, MB", "Difference", "Left out", "Remarks"),
)


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    rows = {}
    if output.exists():
        rows = {row["family"]: row for row in map(json.loads, output.read_text().splitlines())}
    for family in _FAMILIES.value or applications.FAMILIES:
        if family not in rows and _KERAS.value in applications.FAMILIES[family].kerases:
            rows[family] = measure(family)
            with output.open("a") as file:
                file.write(json.dumps(rows[family]) + "\n")
            keras.backend.clear_session()
            gc.collect()
    versions = f"TensorFlow {tf.__version__}, {_KERAS.value} {applications.import_keras(_KERAS.value).__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}")
    print(f"FORCE to {_SPARSITY.value:.0%} in {_STEPS.value} steps of {_BATCH_SIZE.value} images\n")
    print("\n".join([line(_HEAD), line(["---"] * len(_HEAD)), *(line(cells(rows[family])) for family in sorted(rows))]))


def measure(family: str) -> dict[str, Any]:
    """Returns what the table says of a family."""
    model = applications.build(family, _KERAS.value)
    images, labels = applications.random_images(model, _BATCH_SIZE.value)
    search = {"method": "force", "sparsity": _SPARSITY.value, "steps": _STEPS.value, "seed": 0}
    known = applications.custom_objects(family, model)
    with tempfile.TemporaryDirectory() as folder:
        passage = applications.pass_through(model, (images, labels), folder, custom_objects=known, **search)
    return table_row(family, passage, images)


def table_row(family: str, passage: applications.Passage, images: np.ndarray) -> dict[str, Any]:
    """Returns what the table says of a passage."""
    report = passage.report
    return {
        "family": family,
        "network": applications.FAMILIES[family].network,
        "input": applications.FAMILIES[family].size,
        "weights": passage.masks.total,
        "seconds": passage.seconds,
        "keras_bytes": passage.keras_bytes,
        "tflite_bytes": report and report.bytes,
        "dense_tflite_bytes": report and report.dense_bytes,
        # Relative to the outputs, which random weights may make large.
        "difference": report and report.max_difference / float(np.abs(passage.plain(images)).max()),
        "left_out": collections.Counter(map(short, passage.masks.left_out.values())),
        "remarks": remarks(passage),
    }


def short(reason: str) -> str:
    return reason.removesuffix(" has no prunable weights").partition(":")[0]


def remarks(passage: applications.Passage) -> str:
    found = [passage.refusal] if passage.refusal else []
    if passage.masks.metadata["collapsed"]:
        found.append("collapsed")
    if passage.report and passage.report.batch_size is not None:
        found.append(f"TFLite with a batch size of {passage.report.batch_size}")
    if passage.report and not passage.report.sparse:
        found.append(f"dense TFLite: {max(passage.report.tensors, key=lambda tensor: tensor.size).reason}")
    empty = sum(not mask.any() for mask in passage.masks.values())
    if empty:
        found.append(f"{empty} of {len(passage.masks)} kernels keep nothing")
    return "; ".join(found)


def cells(row: dict[str, Any]) -> list[str]:
    left_out = ", ".join(f"{count} {what}" for what, count in row["left_out"].items())
    return [
        row["family"],
        row["network"],
        f"{row['input']}×{row['input']}",
        f"{row['weights']:,}",
        *(f"{row['seconds'][what]:.1f}" for what in ("search", "fit", "step")),
        *(megabytes(row[what]) for what in ("keras_bytes", "tflite_bytes", "dense_tflite_bytes")),
        "–" if row["difference"] is None else f"{row['difference']:.0e}",
        left_out or "–",
        row["remarks"] or "–",
    ]


def megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.1f}"


def line(texts) -> str:
    return f"| {' | '.join(texts)} |"


if __name__ == "__main__":
    run_script(main, "--families=vgg", "Run the same command again to go on.")
