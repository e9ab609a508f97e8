"""Chooses how the tensors of a converted file are stored: the smallest way in which the runtime computes the same."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.convert import Converted
from force_tf.export.runtime import runtime_name
from force_tf.export.sparse_encoding import encode, refused_by_xnnpack, refused_unless_product
from force_tf.export.verify import Comparison, compare, file_outputs, largest

# How far the outputs of a sparse file may be from the dense file's, relative to the largest output. Both hold the same
# weights, so this is for summing in another order.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file that has been run.

    Attributes:
        content: The file.
        reasons: Why each weight tensor is stored as it is, in the order of `flatbuffer.weights_of`.
        comparison: How the file's outputs differ from those of the Keras model.
        runtime: What ran it.
        failure: Why that cannot load it with its default delegate, or None.
    """

    content: bytes
    reasons: list[str]
    comparison: Comparison
    runtime: str
    failure: str | None = None


def encode_and_run(
    converted: Converted, sparse: bool | str, samples: Sequence[np.ndarray], expected: Sequence[dict]
) -> Encoded:
    """Stores zeros by their absence, as far as wanted and possible, and runs the file.

    Args:
        converted: The dense file.
        sparse: As `export_tflite` takes it.
        samples: An array for each input.
        expected: The outputs of the Keras model for them.

    Raises:
        ValueError: If the runtime cannot load and run the dense file, or with `sparse=True` the sparse one.
    """
    options = {"select_tf_ops": converted.quantization.select_tf_ops}
    runtime = runtime_name(**options)

    def run(content: bytes, **more: bool) -> list[dict]:
        return file_outputs(content, converted.signature, samples, **options, **more)

    if sparse is True:
        content, reasons = encode(converted.content)
        try:
            return Encoded(content, reasons, compare(expected, run(content)), runtime)
        except ValueError as error:
            failure = str(error).partition("Received: ")[-1]
            received = run(content, default_delegate=False)
            return Encoded(content, reasons, compare(expected, received), runtime, failure)
    outputs = run(converted.content)
    reason = "as asked for"
    for refuse in (refused_by_xnnpack, refused_unless_product) if sparse == "auto" else ():
        content, reasons = encode(converted.content, refuse)
        if len(content) >= len(converted.content):
            return Encoded(converted.content, reasons, compare(expected, outputs), runtime)
        with contextlib.suppress(ValueError):
            received = run(content)
            if compare(outputs, received).maximum <= _TOLERANCE * largest(outputs):
                return Encoded(content, reasons, compare(expected, received), runtime)
        reason = f"{runtime} does not run the sparse file"
    count = len(list(flatbuffer.weights_of(flatbuffer.parse(converted.content))))
    return Encoded(converted.content, [reason] * count, compare(expected, outputs), runtime)
