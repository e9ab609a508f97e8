"""`inspect`: what the files of this package's users hold."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from force_tf.budget import Budget
from force_tf.cli.model_files import load_model
from force_tf.cli.outcome import Outcome
from force_tf.cost.flops import count_flops
from force_tf.export import check_tflite, flatbuffer, sparse_kernel_layers
from force_tf.layers import get_masks, is_pruned, without_masks
from force_tf.masks import Masks
from force_tf.models.output_channels import dead_channels, output_axes
from force_tf.models.prunable import all_prunable_weights
from force_tf.support.tables import aligned

_BYTES_PER_NUMBER = 4  # of a dense float32 file


def inspect(options: argparse.Namespace) -> Outcome:
    """Tells what a file holds."""
    path = options.file
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a .keras, .h5, .npz or .tflite file. Received: {path!r}, which is no file.")
    if path.endswith(".npz"):
        return _masks(Masks.load(path), path, options)
    if path.endswith(".tflite"):
        return _tflite(path)
    return _model(load_model(path), path, options)


def _masks(masks: Masks, path: str, options: argparse.Namespace) -> Outcome:
    values = {
        "file": path,
        "kind": "masks",
        "kept": masks.kept,
        "total": masks.total,
        "sparsity": masks.sparsity,
        "metadata": masks.metadata,
        "tensors": [_tensor(each, mask, (-1,)) for each, mask in masks.items()],
        "left_out": dict(masks.left_out),
    }
    facts = [(str(name), str(value)) for name, value in masks.metadata.items()]
    parts = [masks.to_table(full=options.full), *([aligned(facts, "<<")] if facts else [])]
    return Outcome("\n\n".join(parts), values)


def _model(model: keras.Model, path: str, options: argparse.Namespace) -> Outcome:
    """Tells of a model what is prunable, and what of that is kept: by its masks, or where there are none, not zero."""
    masked = is_pruned(model)
    with without_masks(model) as plain:
        weights = all_prunable_weights(plain)
        kept = {weight.path: np.asarray(weight.variable) != 0 for weight in weights}
        if masked:
            kept |= dict(get_masks(model))
        tensors = [
            _tensor(weight.path, kept[weight.path], output_axes(weight.layers[-1], weight.attribute))
            for weight in weights
        ]
        parameters = int(sum(np.prod(variable.shape, dtype=np.int64) for variable in plain.weights))
    prunable, left = (sum(tensor[what] for tensor in tensors) for what in ("weights", "kept"))
    flops, kept_flops = _multiply_adds(model, {}), _multiply_adds(model, kept)
    values = {
        "file": path,
        "kind": "model",
        "masked": masked,
        "parameters": parameters,
        "prunable": prunable,
        "kept": left,
        "sparsity": 1 - left / prunable if prunable else 0.0,
        "dead_channels": sum(tensor["dead_channels"] for tensor in tensors),
        "multiply_adds": flops,
        "multiply_adds_kept": kept_flops,
        "float32_bytes": parameters * _BYTES_PER_NUMBER,
        "tensors": tensors,
    }
    facts = [
        ("masks", "yes" if masked else "none; what counts as kept below is not zero"),
        (
            "parameters",
            f"{parameters:,}, {prunable:,} of them prunable, {left:,} kept ({values['sparsity']:.2%} sparsity)",
        ),
        ("multiply-adds", f"{_number(flops)} for one sample, {_number(kept_flops)} of kept weights"),
        ("dense float32", f"{values['float32_bytes']:,} bytes"),
        ("dead channels", f"{values['dead_channels']:,}; `shrink` removes them where it can"),
    ]
    parts = [path, aligned(facts, "<<"), _table(tensors)]
    if options.costs:
        values["costs"] = _costs(model, kept)
        parts.append(_costs_table(values["costs"]))
    if options.sparse_kernels:
        layers = sparse_kernel_layers(model)
        values["sparse_kernel_layers"] = {"paths": list(layers), "share": layers.share, "blocked": layers.blocked}
        parts.append(str(layers))
    return Outcome("\n\n".join(parts), values)


def _tflite(path: str) -> Outcome:
    check = check_tflite(path)
    with open(path, "rb") as file:
        content = file.read()
    model = flatbuffer.parse_checked(content, path)
    tensors = [
        {
            "path": weight.name,
            "shape": list(weight.shape),
            "dtype": weight.dtype.name,
            "weights": weight.size,
            "kept": weight.size - weight.zeros,
            "bytes": weight.bytes,
            "sparse": weight.sparse,
        }
        for weight in flatbuffer.weights_of(model)
    ]
    operations = flatbuffer.count_operations(model)
    values = {
        "file": path,
        "kind": "tflite",
        "bytes": len(content),
        "operations": operations,
        "min_runtime_version": flatbuffer.runtime_version(model),
        "right_on_arm": check.right,
        "sparse_kernels_on_arm": check.sparse,
        "clusters": check.to_dict()["clusters"],
        "tensors": tensors,
    }
    rows = [("tensor", "shape", "type", "zeros", "of", "bytes", "encoding")]
    for tensor in tensors:
        zeros, encoding = tensor["weights"] - tensor["kept"], "sparse" if tensor["sparse"] else "dense"
        numbers = (f"{zeros:,}", f"{tensor['weights']:,}", f"{tensor['bytes']:,}")
        rows.append((tensor["path"], _shape(tensor["shape"]), tensor["dtype"], *numbers, encoding))
    facts = [
        ("bytes", f"{len(content):,}"),
        ("operations", ", ".join(f"{count} {name}" for name, count in operations.items())),
        ("needs", f"TFLite {values['min_runtime_version'] or 'of an unknown version'}"),
    ]
    return Outcome(f"{check}\n\n{aligned(facts, '<<')}\n\n{aligned(rows, '<<<>>><')}", values)


def _tensor(path: str, kept: np.ndarray, axes: tuple[int, ...]) -> dict[str, Any]:
    return {
        "path": path,
        "shape": list(kept.shape),
        "weights": int(kept.size),
        "kept": int(np.count_nonzero(kept)),
        "dead_channels": int(dead_channels(kept, axes)) if kept.ndim else 0,
    }


def _table(tensors: list[dict[str, Any]]) -> str:
    rows = [("Weight", "Shape", "Weights", "Kept", "Density", "Dead channels")]
    for tensor in tensors:
        density = tensor["kept"] / tensor["weights"] if tensor["weights"] else 1.0
        numbers = (f"{tensor['weights']:,}", f"{tensor['kept']:,}", f"{density:.2%}", f"{tensor['dead_channels']:,}")
        rows.append((tensor["path"], _shape(tensor["shape"]), *numbers))
    return aligned(rows, "<<>>>>")


def _multiply_adds(model: keras.Model, masks: Mapping[str, np.ndarray]) -> int | None:
    """Returns the multiply-adds of a model, or None if they depend on what is not fixed or known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that are not counted
        try:
            return count_flops(model, masks)
        except ValueError:
            return None


def _costs(model: keras.Model, kept: Mapping[str, np.ndarray]) -> dict[str, dict[str, int | None]]:
    """Returns what a budget counts, of the dense model and of what `shrink` leaves; None where that has collapsed."""
    with without_masks(model) as plain:
        weights = all_prunable_weights(plain)
        limits = Budget(flops=1, parameters=1, file_bytes=1).bound(plain, weights)
        left = limits.measured([kept[weight.path] for weight in weights]) or {}
    return {name: {"dense": dense, "left": left.get(name)} for name, dense in limits.dense.items()}


def _costs_table(costs: Mapping[str, Mapping[str, int | None]]) -> str:
    rows = [("For a budget", "Dense", "What `shrink` leaves")]
    for name, cost in costs.items():
        left = "nothing: it has collapsed" if cost["left"] is None else f"{cost['left']:,}"
        rows.append((name, f"{cost['dense']:,}", left))
    return aligned(rows, "<>>")


def _number(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
