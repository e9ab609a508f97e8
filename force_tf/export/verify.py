"""Runs a TFLite file against the Keras model that it came from, and counts the zeros in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from force_tf.export.convert import infer, output_names
from force_tf.export.quiet import quiet
from force_tf.export.report import TensorZeros
from force_tf.export.runtime import interpreter
from force_tf.export.samples import Signature

# Types of the file's weights; other constants, such as shapes, are integers of 32 or 64 bits.
_WEIGHT_TYPES = {
    schema.TensorType.FLOAT32: np.dtype("float32"),
    schema.TensorType.FLOAT16: np.dtype("float16"),
    schema.TensorType.INT8: np.dtype("int8"),
}


def keras_outputs(model: keras.Model, signature: Signature, samples: Sequence[np.ndarray]) -> list[dict]:
    """Returns the outputs of a model in inference mode, by name, for each batch of the samples."""
    results = []
    for batch in _batches(signature, samples):
        outputs = infer(model, signature.pack(map(tf.constant, batch)))
        arrays = map(np.asarray, keras.tree.flatten(outputs))
        results.append(dict(zip(output_names(model, outputs), arrays)))
    return results


def max_difference(
    content: bytes, signature: Signature, samples: Sequence[np.ndarray], expected: Sequence[dict]
) -> float:
    """Runs a TFLite file in the default interpreter and returns its largest absolute difference from the outputs given.

    Args:
        content: A TFLite file.
        signature: The inputs of the file.
        samples: An array for each input.
        expected: What `keras_outputs` returns for the same samples.

    Raises:
        ValueError: If the interpreter cannot load or run the file.
    """
    difference = 0.0
    with quiet():
        try:
            file = interpreter(model_content=content)
            runner = file.get_signature_runner()
            names = [spec.name for spec in signature.specs]
            for index, (batch, outputs) in enumerate(zip(_batches(signature, samples), expected)):
                if index:
                    file.reset_all_variables()  # TFLite's fused LSTM goes on from the state of the last sequence
                received = runner(**dict(zip(names, batch)))
                difference = max(difference, *(_difference(outputs[name], received[name]) for name in outputs))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"Expected a file that the default interpreter loads and runs. Received: {reason}"
            ) from error
    return difference


def _batches(signature: Signature, samples: Sequence[np.ndarray]):
    # A file with a varying batch size is run as an application runs it, on one sample after another.
    step = signature.batch_size or 1
    for start in range(0, len(samples[0]), step):
        yield [array[start : start + step] for array in samples]


def _difference(expected: np.ndarray, received: np.ndarray) -> float:
    expected, received = np.asarray(expected, "float64"), np.asarray(received, "float64")
    if expected.shape != received.shape:
        return np.inf
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        gap = np.abs(expected - received)
    same = (expected == received) | (np.isnan(expected) & np.isnan(received))
    return float(np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap)).max(initial=0.0))


def count_zeros(content: bytes) -> tuple[TensorZeros, ...]:
    """Counts the exact zeros of every weight tensor of a TFLite file, sparsely encoded tensors included."""
    found = []
    for name, shape, values, sparse in _weights(content):
        size = math.prod(shape)
        found.append(TensorZeros(name, shape, values.dtype.name, size, size - values.size, sparse))
    return tuple(found)


def lost_weights(sparse: bytes, dense: bytes) -> str | None:
    """Returns the name of a tensor in a sparse file whose weights are not those of the dense file, or None.

    TensorFlow's block-sparse encoding drops the end of rows that no whole number of blocks fills.
    """
    known = {(shape, np.sort(values).tobytes()) for _, shape, values, _ in _weights(dense)}
    for name, shape, values, _ in _weights(sparse):
        if (shape, np.sort(values).tobytes()) not in known:
            return name
    return None


def _weights(content: bytes) -> Iterator[tuple[str, tuple[int, ...], np.ndarray, bool]]:
    """Yields (name, shape, non-zero values, whether sparsely encoded) of each weight tensor in a TFLite file."""
    model = schema.Model.GetRootAs(content)
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            dtype = _WEIGHT_TYPES.get(tensor.Type())
            buffer = model.Buffers(tensor.Buffer())
            sparse = tensor.Sparsity() is not None
            # Activations have empty buffers, but so has a sparse tensor without a single value.
            if dtype is None or not (buffer.DataLength() or sparse):
                continue
            shape = tuple(map(int, tensor.ShapeAsNumpy())) if tensor.ShapeLength() else ()
            values = buffer.DataAsNumpy().view(dtype) if buffer.DataLength() else np.empty(0, dtype)
            # A sparse tensor stores zeros, too, where they fill its blocks.
            yield tensor.Name().decode(), shape, values[values != 0], sparse
