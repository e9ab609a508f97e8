"""Runs a TFLite file against the Keras model that it came from."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.export.programs.child import run_program
from force_tf.export.samples import Signature
from force_tf.export.states import initial_states
from force_tf.export.trace import infer, output_names
from force_tf.models.keras_models import state_variables


class RunError(ValueError):
    """The interpreter cannot load or run a file.

    Args:
        reason: Why, in the runtime's words.
    """

    def __init__(self, reason: str):
        super().__init__(f"Expected a file that the interpreter loads and runs. Received: {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How two lists of outputs differ.

    Attributes:
        maximum: The largest absolute difference; infinite if an output is not a number, or of another shape.
        mean: The mean absolute difference over all numbers of all outputs.
        agreement: For outputs of shape (batch, classes): the fraction of samples whose largest output is that of the
            same class. None without such outputs.
    """

    maximum: float | None
    mean: float | None
    agreement: float | None


def keras_outputs(model: keras.Model, signature: Signature, samples: Sequence[np.ndarray]) -> list[dict]:
    """Returns the outputs of a model in inference mode, by name, for each batch of the samples.

    Stateful layers begin at zero, and go on from batch to batch, as those of a file do; their states stay as they were.
    """
    results = []
    with initial_states(state_variables(model)):
        for batch in _batches(signature, samples):
            outputs = infer(model, signature.pack(map(tf.constant, batch)))
            arrays = map(np.asarray, keras.tree.flatten(outputs))
            results.append(dict(zip(output_names(model, outputs), arrays)))
    return results


def file_outputs(
    content: bytes,
    signature: Signature,
    samples: Sequence[np.ndarray],
    *,
    python: Sequence[str] = (sys.executable,),
    **options: Any,
) -> list[dict]:
    """Returns the outputs of a TFLite file, by name, for each batch of the samples.

    The file runs in a process of its own: there are files on which the runtime crashes.

    Args:
        content: A TFLite file.
        signature: The inputs of the file.
        samples: An array for each input.
        python: The command that starts the Python to run it.
        **options: For `runtime.interpreter`.

    Raises:
        RunError: If the interpreter cannot load or run the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: os.path.join(folder, name) for name in ("model", "inputs.npz", "outputs.npz")}
        with open(paths["model"], "wb") as file:
            file.write(content)
        np.savez(paths["inputs.npz"], **{spec.name: array for spec, array in zip(signature.specs, samples)})
        settings = {
            "model": paths["model"],
            "inputs": paths["inputs.npz"],
            "outputs": paths["outputs.npz"],
            "batch_size": signature.batch_size or 1,
        }
        result = run_program("runtime.py", settings | options, python)
        if "failure" in result:
            raise RunError(" ".join(result["failure"].split()))
        with np.load(paths["outputs.npz"]) as arrays:
            outputs = dict(arrays)
    return [dict(zip(outputs, batch)) for batch in zip(*outputs.values())]


def _batches(signature: Signature, samples: Sequence[np.ndarray]):
    # A file with a varying batch size is run as an application runs it, on one sample after another.
    step = signature.batch_size or 1
    for start in range(0, len(samples[0]), step):
        yield [array[start : start + step] for array in samples]


def compare(expected: Sequence[dict], received: Sequence[dict]) -> Comparison:
    """Compares outputs, by name, of each batch."""
    gaps, same_class = [], []
    for outputs, others in zip(expected, received, strict=True):
        for name, output in outputs.items():
            gaps.append(_gaps(output, others[name]))
            if np.ndim(output) == 2 and np.shape(output)[1] > 1 and np.shape(output) == np.shape(others[name]):
                same_class.append(np.argmax(output, axis=1) == np.argmax(others[name], axis=1))
    gaps = np.concatenate(gaps)
    agreement = float(np.concatenate(same_class).mean()) if same_class else None
    return Comparison(float(gaps.max(initial=0.0)), float(gaps.mean()) if gaps.size else 0.0, agreement)


def _gaps(expected: np.ndarray, received: np.ndarray) -> np.ndarray:
    expected, received = np.asarray(expected, "float64"), np.asarray(received, "float64")
    if expected.shape != received.shape:
        return np.array([np.inf])
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        gap = np.abs(expected - received)
    same = (expected == received) | (np.isnan(expected) & np.isnan(received))
    return np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap)).ravel()


def largest(outputs: Sequence[dict]) -> float:
    """Returns the largest absolute value of finite outputs."""
    arrays = (np.asarray(output, "float64") for batch in outputs for output in batch.values())
    return max(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) for array in arrays)
