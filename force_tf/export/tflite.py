"""`export_tflite`: a verified TFLite file from a pruned or plain Keras model."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from force_tf import keras_models
from force_tf.export.convert import convert, in_float32, refilled
from force_tf.export.quiet import preserved_random_state
from force_tf.export.report import TFLiteReport
from force_tf.export.samples import Signature, flat_samples, signature_of
from force_tf.export.verify import count_zeros, keras_outputs, lost_weights, max_difference
from force_tf.files import atomic_file
from force_tf.layers import without_masks

# How much further than the dense file's the outputs of a sparse file may be from the Keras model's, relative to the
# largest output. Both files hold the same weights, so this is for summing in another order.
_SPARSE_TOLERANCE = 1e-5


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    sparse: bool | str = "auto",
    samples: Any = None,
    verbose: bool = True,
) -> TFLiteReport:
    """Writes a model as a float32 TFLite file, runs the file against the model, and reports what was written.

    The file appears only once it has been loaded and run by the default interpreter (LiteRT where `ai-edge-litert` is
    installed, or else TensorFlow's own). A model that computes in another precision is rebuilt in float32 first. The
    batch size of the file may vary if that of the model may; it is 1 where TFLite cannot express the model otherwise,
    as with recurrent layers. The LSTM of tf_keras becomes an operation that keeps its state from one run to the next:
    call the interpreter's `reset_all_variables()` between sequences. The model itself stays as it is.

    The report compares with a dense model: the same architecture in a dense file, its pruned weights refilled with
    seeded random numbers of the mean and deviation of the kernel's other weights, since zeros would compress.

    Args:
        model: A built model of either Keras, pruned by `apply_masks` or plain.
        path: The file to write.
        sparse: Whether to store tensors of mostly zeros by their non-zero values and the places of these. "auto" does
            so where it makes the file smaller, keeps every weight, and the default interpreter runs it. Few kernels of
            the runtime are faster for it: `benchmark_tflite` tells.
        samples: Inputs on which to compare the file with the model: an array, or a structure of arrays as the model
            takes them, each of shape (samples, …). None: eight random ones, standard normal or valid indices.
        verbose: Whether to print the report.

    Returns:
        A `TFLiteReport`: the bytes with and without gzip and those of the dense model, the largest output difference,
        and the zeros of every tensor, read back from the file.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, `sparse` or `samples` do not fit, TFLite's built-in operations cannot
            express the model, or the interpreter cannot run the file.
        OSError: If the file cannot be written.

    Example:

    >>> report = force_tf.export_tflite(pruned, "model.tflite", verbose=False)
    >>> report.dense_bytes / report.bytes
    13.8
    """
    keras_models.check_model(model)
    if not (isinstance(sparse, bool) or sparse == "auto"):
        raise ValueError(f"Expected `sparse` to be True, False or 'auto'. Received: sparse={sparse!r}")
    signature = signature_of(model, samples)
    arrays = flat_samples(model, signature, samples)
    with atomic_file(path) as file, preserved_random_state():
        expected = keras_outputs(model, signature, arrays)
        with without_masks(model) as plain:
            encoded = _encode(in_float32(plain), signature, sparse, arrays, expected)
        file.write(encoded.content)
        report = TFLiteReport(
            path=os.fspath(path),
            bytes=len(encoded.content),
            gzip_bytes=_gzip_bytes(encoded.content),
            dense_bytes=len(encoded.reference),
            dense_gzip_bytes=_gzip_bytes(encoded.reference),
            sparse=encoded.sparse,
            encoding_reason=encoded.reason,
            batch_size=encoded.signature.batch_size,
            max_difference=encoded.difference,
            samples=len(arrays[0]),
            tensors=count_zeros(encoded.content),
        )
    if verbose:
        print(report)  # noqa: T201 (what the user asked for)
    return report


@dataclasses.dataclass(frozen=True)
class _Encoded:
    content: bytes
    reference: bytes  # the dense model
    signature: Signature
    difference: float
    sparse: bool
    reason: str


def _encode(
    model: keras.Model,
    signature: Signature,
    sparse: bool | str,
    samples: Sequence[np.ndarray],
    expected: Sequence[dict],
) -> _Encoded:
    values = [variable.numpy() for variable in model.variables]
    dense_values = refilled(values, [_plain_name(variable) for variable in model.variables])
    has_zeros = any((value != other).any() for value, other in zip(values, dense_values))
    dense, signature = _convert_dense(model, signature, values)
    # Converted rather than filled in: kernels without any weight left are merged, and so missing, in the dense file.
    reference = convert(model, signature, dense_values, sparse=False) if has_zeros else dense
    difference = max_difference(dense, signature, samples, expected)

    def dense_because(reason: str) -> _Encoded:
        return _Encoded(dense, reference, signature, difference, False, reason)

    if sparse is False or (sparse == "auto" and not has_zeros):
        return dense_because("as asked for" if sparse is False else "no zeros to leave out")
    small = convert(model, signature, values, sparse=True)
    if sparse == "auto" and len(small) >= len(dense):
        return dense_because(f"smaller than sparse, which takes {len(small):,} bytes")
    allowed = difference + _SPARSE_TOLERANCE * _largest(expected)
    sparse_difference, failure = _try_sparse(small, dense, signature, samples, expected, allowed)
    if failure is None:
        reason = "as asked for" if sparse is True else f"smaller than dense, which takes {len(dense):,} bytes"
        return _Encoded(small, reference, signature, sparse_difference, True, reason)
    if sparse is True:
        raise ValueError(f"Expected a model that sparse encoding holds; pass sparse='auto'. Received: {failure}")
    return dense_because(failure)


def _plain_name(variable) -> str:
    """The name of a variable in its layer; tf_keras puts the layer's name before it, and a number behind it."""
    return variable.name.rpartition("/")[-1].partition(":")[0]


def _try_sparse(
    small: bytes, dense: bytes, signature: Signature, samples, expected, allowed: float
) -> tuple[float, str | None]:
    """Returns the output difference of a sparse file, and what is wrong with the file, if anything."""
    lost = lost_weights(small, dense)
    if lost is not None:
        return np.inf, f"sparse encoding loses weights of the tensor {lost!r}"
    try:
        difference = max_difference(small, signature, samples, expected)
    except ValueError:
        return np.inf, "the default interpreter cannot run the sparse file"
    return difference, None if difference <= allowed else f"the sparse file's outputs are off by {difference:.3g}"


def _largest(expected: Sequence[dict]) -> float:
    outputs = (np.asarray(output, "float64") for batch in expected for output in batch.values())
    return max(float(np.abs(output).max(initial=0.0)) for output in outputs)


def _convert_dense(model: keras.Model, signature: Signature, values: list[np.ndarray]) -> tuple[bytes, Signature]:
    try:
        return convert(model, signature, values, sparse=False), signature
    except ValueError:
        if signature.batch_size is not None:
            raise
        with contextlib.suppress(ValueError):
            # The lists of tensors in a recurrent layer, for one, need a batch size known beforehand.
            single = signature.with_batch_size(1)
            return convert(model, single, values, sparse=False), single
        raise


def _gzip_bytes(content: bytes) -> int:
    return len(gzip.compress(content, mtime=0))
