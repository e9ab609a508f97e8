"""The commands, each a function of the parsed options, by its name."""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Sequence

import keras

import force_tf
from force_tf.cli.data_files import read_data
from force_tf.cli.inspection import inspect
from force_tf.cli.model_files import load_model
from force_tf.cli.outcome import Outcome

__all__ = ["benchmark", "export", "inspect", "prune", "shrink"]

_MODELS, _MASKS, _TFLITE = (".keras", ".h5"), (".npz",), (".tflite",)
_COSTS = ("flops", "parameters", "file_bytes")
_SPARSITY = 0.9
_CHOICES = {"auto": "auto", "always": True, "never": False}


def prune(options: argparse.Namespace) -> Outcome:
    """Searches masks, or reads them, and writes the pruned model or the masks."""
    _check_output(options.output, (*_MODELS, *_MASKS))
    _check_aim(options)
    masks = None if options.masks is None else force_tf.Masks.load(options.masks)
    pruner = None if masks is not None else _pruner(options)
    data = read_data(options.data)
    model = load_model(options.model, compiled=options.loss is None)
    if pruner is not None:
        masks = pruner.find_masks(
            model, data, options.loss, batch_size=options.batch_size, checkpoint=options.checkpoint
        )
    if options.output.endswith(_MASKS):
        masks.save(options.output)
    else:
        _save(force_tf.apply_masks(model, masks), options.output)
    values = {
        "output": options.output,
        "kept": masks.kept,
        "total": masks.total,
        "sparsity": masks.sparsity,
        "density": {path: masks.density(path) for path in masks},
        "left_out": dict(masks.left_out),
        "metadata": masks.metadata,
    }
    return Outcome(f"{masks.to_table(full=options.full)}\n\nWritten: {options.output}", values)


def shrink(options: argparse.Namespace) -> Outcome:
    """Writes a model without the channels that pruning has killed."""
    _check_output(options.output, _MODELS)
    model = load_model(options.model)
    small = force_tf.shrink(model)
    report = force_tf.shrink_report(model, small)
    _save(small, options.output)
    text = report.details() if options.full else str(report)
    return Outcome(f"{text}\n\nWritten: {options.output}", {"output": options.output, **report.to_dict()})


def export(options: argparse.Namespace) -> Outcome:
    """Writes a TFLite file."""
    _check_output(options.output, _TFLITE)
    representative_data, verify_data = read_data(options.representative_data), read_data(options.verify_data)
    report = force_tf.export_tflite(
        load_model(options.model),
        options.output,
        quantize=options.quantize,
        representative_data=representative_data,
        sparse=_CHOICES[options.sparse],
        sparse_kernels=_CHOICES[options.sparse_kernels],
        verify_data=verify_data,
        tolerance=options.tolerance,
        verbose=False,
    )
    if options.c_array is not None:
        report.write_c_array(options.c_array)
    return Outcome(report.details() if options.full else str(report), report.to_dict())


def benchmark(options: argparse.Namespace) -> Outcome:
    """Times TFLite files."""
    for path in options.files:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected the path of a .tflite file. Received: {path!r}, which is no file.")
    found = [force_tf.benchmark_tflite(path, threads=options.threads, runs=options.runs) for path in options.files]
    return Outcome("\n\n".join(map(str, found)), [latency.to_dict() for latency in found])


def _pruner(options: argparse.Namespace) -> force_tf.PruneAtInit:
    granularity = options.granularity
    if "," in granularity:
        try:
            granularity = tuple(int(size) for size in granularity.split(","))
        except ValueError:
            raise ValueError(f"Expected the sizes of a block, such as 1,4. Received: {granularity!r}") from None
    return force_tf.PruneAtInit(
        options.method,
        sparsity=_sparsity(options),
        budget=_budget(options),
        steps=options.steps,
        schedule=options.schedule,
        batches=options.batches,
        scope=options.scope,
        min_per_layer=options.min_per_layer,
        granularity=granularity,
        layers=options.layers,
        seed=options.seed,
    )


def _check_aim(options: argparse.Namespace) -> None:
    """Refuses options of which one would be passed over."""
    aims = {f"--{name.replace('_', '-')}": getattr(options, name) for name in ("masks", "sparsity", *_COSTS)}
    given = [f"{flag}={value}" for flag, value in aims.items() if value is not None]
    costs = [each for each in given if not each.startswith(("--masks", "--sparsity"))]
    if len(given) > max(len(costs), 1):
        raise ValueError(
            "Expected either --masks, or --sparsity, or a budget (--flops, --parameters, --file-bytes). "
            f"Received: {' '.join(given)}"
        )
    if options.quantize is not None and options.file_bytes is None:
        raise ValueError(f"Expected --file-bytes where --quantize is given. Received: --quantize={options.quantize}")


def _sparsity(options: argparse.Namespace) -> float | None:
    if options.sparsity is None and _budget(options) is None:
        return _SPARSITY
    return options.sparsity


def _budget(options: argparse.Namespace) -> force_tf.Budget | None:
    costs = {name: getattr(options, name) for name in _COSTS if getattr(options, name) is not None}
    return force_tf.Budget(**costs, quantize=options.quantize) if costs else None


def _check_output(path: str, kinds: Sequence[str]) -> None:
    """Refuses, before any work, an output that could not be written."""
    if not path.endswith(tuple(kinds)):
        raise ValueError(f"Expected an output that ends with {' or '.join(kinds)}. Received: {path!r}")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"Expected an output in a folder that exists. Received: {path!r}")


def _save(model: keras.Model, path: str) -> None:
    # Aside first: Keras writes into the file itself, and an interruption would leave half of it.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path) or ".", prefix=".force_tf_") as folder:
        aside = os.path.join(folder, os.path.basename(path))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*saving your model as an HDF5 file")  # as was asked for
            model.save(aside)
        os.replace(aside, path)
