"""The TFLite runtime: LiteRT where it is installed, or else the one that TensorFlow brings.

Also a program, so that a file on which the runtime crashes takes down nothing else:

    python -P runtime.py '{"model": "model.tflite", "inputs": "in.npz", "outputs": "out.npz", "batch_size": 1}'

runs the file on batches of the arrays in one file, writes its outputs to the other, and prints a line of JSON: empty,
or with the "failure" in the runtime's words. It imports TensorFlow only where LiteRT is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def interpreter(*, select_tf_ops: bool = False, default_delegate: bool = True, **arguments: Any) -> Any:
    """Returns a new interpreter; call it within `quiet`, since it announces its delegates.

    Args:
        select_tf_ops: Whether the file has operations of TensorFlow's. LiteRT's Python package knows none of them.
        default_delegate: Whether the interpreter may hand operations to its default delegate, XNNPACK.
        **arguments: What `ai_edge_litert.interpreter.Interpreter` takes.
    """
    module = _module(select_tf_ops)
    if not default_delegate:
        resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        arguments["experimental_op_resolver_type"] = resolver
    return module.Interpreter(**arguments)


def runtime_name(select_tf_ops: bool = False) -> str:
    """Returns the name and version of the package that `interpreter` takes, such as "ai-edge-litert 2.3.0"."""
    if _module(select_tf_ops).__name__.startswith("ai_edge_litert"):
        return f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    return f"tensorflow {importlib.metadata.version('tensorflow')}"


def _module(select_tf_ops: bool):
    if not select_tf_ops:
        try:
            return importlib.import_module("ai_edge_litert.interpreter")
        except ImportError:
            pass
    return importlib.import_module("tensorflow.lite.python.interpreter")


class Runner:
    """Runs a TFLite file on floating-point numbers, whatever type its inputs and outputs are of.

    Args:
        **arguments: What `interpreter` takes, such as `model_path=` or `model_content=`.

    Attributes:
        inputs: The interpreter's details of each input, by name.
        outputs: The interpreter's details of each output, by name.

    Raises:
        RuntimeError: If the interpreter cannot load the file.
        ValueError: If it is no TFLite file.
    """

    def __init__(self, **arguments: Any):
        self._interpreter = interpreter(**arguments)
        self._runner = self._interpreter.get_signature_runner()
        self._used = False
        self.inputs: Mapping[str, Mapping[str, Any]] = self._runner.get_input_details()
        self.outputs: Mapping[str, Mapping[str, Any]] = self._runner.get_output_details()

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs, by name, for an array of each input: floats, where the file has quantized integers."""
        if self._used:
            self._interpreter.reset_all_variables()  # TFLite's fused LSTM goes on from the state of the last sequence
        self._used = True
        outputs = self._runner(**{name: _quantized(array, self.inputs[name]) for name, array in arrays.items()})
        return {name: _dequantized(array, self.outputs[name]) for name, array in outputs.items()}


def _quantized(array: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    if not scale:
        return array.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantized(array: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return (array.astype("float32") - zero_point) * np.float32(scale) if scale else array


def main(model: str, inputs: str, outputs: str, batch_size: int, **options: bool) -> dict[str, str]:
    """Returns what the program prints.

    Args:
        model: A TFLite file.
        inputs: An .npz file with an array of shape (samples, …) for each input, whole batches of samples.
        outputs: The .npz file to write, with an array of shape (batches, batch size, …) for each output.
        batch_size: The size of a batch.
        **options: For `interpreter`.
    """
    with np.load(inputs) as arrays:
        samples = dict(arrays)
    starts = range(0, len(next(iter(samples.values()))), batch_size)
    try:
        run = Runner(model_path=model, **options)
        results = [
            run({name: array[start : start + batch_size] for name, array in samples.items()}) for start in starts
        ]
    except (RuntimeError, ValueError) as error:
        return {"failure": " ".join(str(error).split())}
    np.savez(outputs, **{name: np.stack([result[name] for result in results]) for name in results[0]})
    return {}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))  # noqa: T201 (its output)
