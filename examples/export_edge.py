r"""Writes every kind of TFLite file of a Keras model, and compares their sizes, latencies and accuracies.

    python examples/export_edge.py --model=runs/quickstart/force.keras --data=digits

The model, pruned by force_tf or plain, is written with weights and activations of 32, 16 and 8 bits; where zeros are
stored by their absence, also with all of them, to show the difference. The output folder receives the files, the table
(results.json, results.csv) and a plot (variants.png). Takes some seconds for a file of a small network, minutes for one
of a large network.

Without --data, everything but the accuracy can be measured; the 8-bit files then have guessed ranges.

Phones have kernels that leave the zeros of 1x1 convolutions out. With --sparse_kernels=auto, files of 32 and 16 bits
are rewritten for these where that costs next to nothing elsewhere; "on phones" counts the multiply-adds that are left.
"""

from __future__ import annotations

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import csv
import dataclasses
import pathlib
import time
from collections.abc import Sequence

import keras
import model_data
from absl import flags
from figures import variants_figure
from list_flags import check_names
from run_folder import RunFolder
from script import run_script

import force_tf
from force_tf.cli.model_files import KERASES, load_model
from force_tf.export import TFLiteReport

_QUANTIZATIONS = {"float32": None, **{name: name for name in ("float16", "dynamic", "int8", "int8_io")}}
_CALIBRATED = ("int8", "int8_io")
_CHOICES = {"auto": "auto", "true": True, "false": False}

_MODEL = flags.DEFINE_string("model", None, "The model: a .keras or .h5 file, pruned by force_tf or plain.")
_KERAS = flags.DEFINE_enum("keras", None, KERASES, "The Keras to load it with. Default: the one that saved it.")
_DATA = flags.DEFINE_string(
    "data",
    None,
    f"What to calibrate and test on: {', '.join(model_data.IMAGES)} (normalized as in the other examples; resized to "
    "the model's input), or an .npz file with the model's inputs `x` and their classes `y`, or with `x` alone. "
    "Default: random inputs.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder, in your home."
)
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many samples, to try things out.", lower_bound=1)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where the files, the table and the plot go. Default: runs/export_<name of the model's file>."
)
_VARIANTS = flags.DEFINE_list("variants", list(_QUANTIZATIONS), f"Kinds of files, of {', '.join(_QUANTIZATIONS)}.")
_SPARSE_KERNELS = flags.DEFINE_enum(
    "sparse_kernels",
    "auto",
    list(_CHOICES),
    "Whether to rewrite files of 32 and 16 bits for phones' sparse kernels. true: an error says what is in the way.",
)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of the TFLite interpreter.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 50, "Timed calls of each file, in each mode.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random inputs.", lower_bound=0)
check_names("variants", _QUANTIZATIONS)

_NO_MODEL = """Expected --model, a .keras or .h5 file. Received: none. For one to try:

    python examples/quickstart.py
    python examples/export_edge.py --model=runs/quickstart/force.keras --data=digits"""
_GUESSED = (
    "Warning: without --data, the ranges in int8 files are those of random inputs. Such files are good for timing only."
)
_CLOSING = """
unpruned     what a float32 file takes if none of the weights is zero; ratio: how many times smaller the others are
_dense       the same numbers with every zero in place, where the file above it leaves zeros out
latency      median of {runs} calls of one sample, in {runtime} with its default delegate; threads: {threads}
no delegate  the same with the runtime's own kernels
difference   the largest one of outputs from those of the Keras model
on phones    multiply-adds of one sample that a phone computes; the files do {dense:,} on a PC
same class   for how many samples the largest output is that of the same class

Phones' sparse kernels: {sparse_kernels}

In {folder}: the files, the table as results.json and results.csv, and variants.png
"""


@dataclasses.dataclass
class Variant:
    """A TFLite file of the model, as far as it could be made and measured."""

    name: str
    quantize: str | None  # as `export_tflite` takes it
    dense: bool  # whether to write all zeros
    bytes: int | None = None
    gzip_bytes: int | None = None
    zstd_bytes: int | None = None
    ratio: float | None = None  # of the bytes of a float32 file without zeros to these
    latency_ms: float | None = None  # with the default delegate
    latency_without_delegate_ms: float | None = None
    peak_memory_bytes: int | None = None
    max_difference: float | None = None
    top_class_agreement: float | None = None
    phone_multiply_adds: int | None = None
    accuracy: float | None = None
    failure: str | None = None


def run() -> None:
    """Writes and measures the files, prints a table, and draws the plot."""
    if not _MODEL.value:
        raise ValueError(_NO_MODEL)
    model = load_model(_MODEL.value, _KERAS.value)
    data = model_data.load(model, _DATA.value, _DATA_DIR.value, _LIMIT.value, _SEED.value)
    folder = RunFolder(_OUTPUT_DIR.value or f"runs/export_{pathlib.Path(_MODEL.value).stem}")
    for name in ("results.json", "results.csv", "variants.png"):
        folder.remove(name)  # they tell of other files than those to come
    accuracy = _keras_accuracy(model, data)
    found = "" if accuracy is None else f", on which Keras reaches an accuracy of {accuracy:.2%}"
    print(f"{_MODEL.value}, tried on {data.source}{found}.")
    if _DATA.value is None and set(_VARIANTS.value) & set(_CALIBRATED):
        print(_GUESSED)
    print(flush=True)
    variants, reports = _write_all(model, data, folder)
    if not reports:
        raise ValueError(
            f"Expected a model that TFLite can express. Received: {_MODEL.value!r} ({variants[0].failure})"
        )
    print(f"\n{_table(variants, reports[0])}")
    _save(variants, reports[0], accuracy, data, folder)
    told = {"runtime": reports[0].runtime, "sparse_kernels": reports[0].sparse_kernels}
    told |= {"dense": reports[0].multiply_adds.dense, "folder": folder.path}
    print(_CLOSING.format(runs=_RUNS.value, threads=_THREADS.value, **told), end="")


def _keras_accuracy(model: keras.Model, data: model_data.ModelData) -> float | None:
    if data.labelled is None:
        return None
    metric = model_data.accuracy_metric(model, data)
    for x, y in data.labelled:
        metric.update_state(y, model.predict_on_batch(x))
    return float(metric.result())


def _write_all(
    model: keras.Model, data: model_data.ModelData, folder: RunFolder
) -> tuple[list[Variant], list[TFLiteReport]]:
    """Returns what became of each file, and the reports of those that were written."""
    variants, reports = [], []
    for name in dict.fromkeys(_VARIANTS.value):
        folder.remove(f"{name}_dense.tflite")  # of an earlier run
        for dense in (False, True):
            variant = Variant(f"{name}_dense" if dense else name, _QUANTIZATIONS[name], dense)
            report = _write(variant, model, data, folder)
            variants.append(variant)
            if report is not None:
                reports.append(report)
            if report is None or not report.sparse:
                break  # dense already
    return variants, reports


def _write(variant: Variant, model: keras.Model, data: model_data.ModelData, folder: RunFolder) -> TFLiteReport | None:
    """Writes and measures a file; fills in what is found, and why it went no further."""
    begin, name, report = time.perf_counter(), f"{variant.name}.tflite", None
    folder.remove(name)  # of an earlier run
    print(f"{variant.name:<14} ", end="", flush=True)
    try:
        report = force_tf.export_tflite(
            model,
            folder / name,
            quantize=variant.quantize,
            sparse=False if variant.dense else "auto",
            sparse_kernels=_sparse_kernels(variant),
            representative_data=data.calibration,
            verify_data=data.compared,
            verbose=False,
        )
        _note_report(variant, report)
        _measure(variant, model, data, folder / name)
    except ValueError as error:
        variant.failure = str(error)
    outcome = "cannot be made" if report is None else f"{report.bytes:,} bytes"
    print(f"{outcome} ({time.perf_counter() - begin:.0f} s)", flush=True)
    return report


def _sparse_kernels(variant: Variant) -> bool | str:
    """Returns what was asked for, where a file may have sparse kernels at all."""
    may = not variant.dense and variant.quantize in (None, "float16")
    return _CHOICES[_SPARSE_KERNELS.value] if may else "auto"


def _note_report(variant: Variant, report: TFLiteReport) -> None:
    variant.bytes, variant.gzip_bytes, variant.zstd_bytes = report.bytes, report.gzip_bytes, report.zstd_bytes
    variant.ratio = report.dense_bytes / report.bytes
    variant.max_difference = report.max_difference
    variant.top_class_agreement = report.top_class_agreement
    variant.phone_multiply_adds = report.multiply_adds.on_phones


def _measure(variant: Variant, model: keras.Model, data: model_data.ModelData, path: pathlib.Path) -> None:
    latency = force_tf.benchmark_tflite(path, threads=_THREADS.value, runs=_RUNS.value)
    variant.latency_ms, variant.peak_memory_bytes = latency.median, latency.peak_memory
    if latency.without_delegate is not None:
        variant.latency_without_delegate_ms = latency.without_delegate.median
    variant.failure = "; ".join(f"{mode}: {reason}" for mode, reason in latency.failures.items()) or None
    if data.labelled is not None:
        metrics = [model_data.accuracy_metric(model, data)]
        results = force_tf.evaluate_tflite(path, data.labelled, metrics, threads=_THREADS.value, verbose=0)
        variant.accuracy = results["accuracy"]


_COLUMNS = {
    "file": ("name", "{}"),
    "bytes": ("bytes", "{:,}"),
    "gzip": ("gzip_bytes", "{:,}"),
    "zstd": ("zstd_bytes", "{:,}"),
    "ratio": ("ratio", "{:.1f}x"),
    "latency": ("latency_ms", "{:.3f} ms"),
    "no delegate": ("latency_without_delegate_ms", "{:.3f} ms"),
    "difference": ("max_difference", "{:.1e}"),
    "on phones": ("phone_multiply_adds", "{:,}"),
    "same class": ("top_class_agreement", "{:.1%}"),
    "accuracy": ("accuracy", "{:.2%}"),
}


def _table(variants: Sequence[Variant], report: TFLiteReport) -> str:
    sizes = (report.dense_bytes, report.dense_gzip_bytes, report.dense_zstd_bytes)
    rows = [list(_COLUMNS), _cells(Variant("unpruned", None, True, *sizes, ratio=1.0)), *map(_cells, variants)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(f"{cell:{'>' if column else '<'}{width}}" for column, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    ]
    for line, variant in enumerate(variants, start=2):
        if variant.bytes is None:
            lines[line] = f"{variant.name:<{widths[0]}}  cannot be made: {variant.failure}"
        elif variant.failure:
            lines.append(f"{variant.name}: {variant.failure}")
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cells(variant: Variant) -> list[str]:
    values = ((getattr(variant, field), form) for field, form in _COLUMNS.values())
    return ["–" if value is None else form.format(value) for value, form in values]


def _save(
    variants: Sequence[Variant],
    report: TFLiteReport,
    accuracy: float | None,
    data: model_data.ModelData,
    folder: RunFolder,
) -> None:
    """Writes the table for programs, and the plot."""
    rows = [dataclasses.asdict(variant) for variant in variants]
    results = {
        "model": _MODEL.value,
        "data": data.source,
        "keras_accuracy": accuracy,
        "unpruned_bytes": report.dense_bytes,
        "unpruned_gzip_bytes": report.dense_gzip_bytes,
        "unpruned_zstd_bytes": report.dense_zstd_bytes,
        "runtime": report.runtime,
        "multiply_adds": report.multiply_adds.dense,
        "sparse_kernels": report.sparse_kernels,
        **{flag.name: flag.value for flag in (_THREADS, _RUNS, _SEED)},
        "variants": rows,
    }
    with folder.writing("results.csv") as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    quality = "max_difference" if accuracy is None else "accuracy"
    folder.save_figures({"variants.png": variants_figure(rows, quality, f"TFLite files of {_MODEL.value}")})
    folder.write_json("results.json", results)  # the last file: it says that the run is finished


if __name__ == "__main__":
    run_script(run, "--model=model.keras")
