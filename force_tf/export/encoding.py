"""Chooses how the tensors of a converted file are stored: the smallest way in which the runtime computes the same."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.convert import Converted
from force_tf.export.flatbuffer import Weight
from force_tf.export.programs.runtime import runtime_name
from force_tf.export.sparse_choice import Choice, choose, refusal
from force_tf.export.sparse_encoding import Reader, encode
from force_tf.export.sparse_kernels import SPARSE, Cluster, clusters_of
from force_tf.export.sparse_repair import kept_right
from force_tf.export.verify import Comparison, RunError, compare, file_outputs, largest

# How far the outputs of a sparse file may be from the dense file's, relative to the largest output. Both hold the same
# weights, so this is for summing in another order.
_TOLERANCE = 1e-5
# How the names of TensorFlow's operations begin in a file.
_SELECT_TF_OP = "Flex"
# The operations whose weights XNNPACK prepares itself.
_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file that has been run.

    Attributes:
        content: The file.
        reasons: Why each weight tensor is stored as it is, in the order of `flatbuffer.weights_of`.
        comparison: How the file's outputs differ from those of the Keras model; None if nothing here can run it.
        runtime: What ran it.
        failure: Why that cannot load it as it loads files by default, or None.
        prevented: What would have come out wrong on phones, and is kept from the kernels that do so.
        rewrites: What was rewritten for phones' sparse kernels, and how often.
        sparse_kernels: What was done about these, in a sentence.
    """

    content: bytes
    reasons: list[str]
    comparison: Comparison | None
    runtime: str
    failure: str | None = None
    prevented: tuple[Cluster, ...] = ()
    rewrites: dict[str, int] = dataclasses.field(default_factory=dict)
    sparse_kernels: str = ""


def encode_and_run(
    converted: Converted,
    sparse: bool | str,
    samples: Sequence[np.ndarray],
    expected: Sequence[dict],
    sparse_kernels: bool | str = "auto",
) -> Encoded:
    """Stores zeros by their absence, as far as wanted and possible, and runs the file.

    Args:
        converted: The dense file.
        sparse: As `export_tflite` takes it.
        samples: An array for each input.
        expected: The outputs of the Keras model for them.
        sparse_kernels: As `export_tflite` takes it.

    Raises:
        ValueError: If the runtime cannot load and run the dense file, or with `sparse=True` the sparse one. A file with
            operations of TensorFlow's may pass without having run. If sparse kernels are demanded and cannot be had.
    """
    choice = choose(converted.content, sparse, sparse_kernels, converted.quantization.kind)
    if choice.on:
        encoder = _Encoder(converted, choice, samples, expected)
        with contextlib.suppress(RunError):
            encoded = encoder.run(sparse)
            clusters = clusters_of(flatbuffer.parse(encoded.content))
            if encoded.failure is None and any(cluster.verdict == SPARSE for cluster in clusters):
                return encoded
        if sparse_kernels is True:
            raise ValueError(refusal(f"{encoder.runtime} does not run the sparse file"))
        note = f"none: {encoder.runtime} does not run the file that was rewritten for them"
        choice = Choice(converted.content, on=False, off=False, rewrites={}, note=note)
    return _Encoder(converted, choice, samples, expected).run(sparse)


class _Encoder:
    """Encodes a dense file, and runs it."""

    def __init__(self, converted: Converted, choice: Choice, samples: Sequence[np.ndarray], expected: Sequence[dict]):
        self._content, self._choice = choice.content, choice
        self._signature, self._samples, self._expected = converted.signature, samples, expected
        operations = flatbuffer.count_operations(flatbuffer.parse(choice.content))
        self._options = {"select_tf_ops": any(name.startswith(_SELECT_TF_OP) for name in operations)}
        self.runtime = runtime_name(**self._options)

    def run(self, sparse: bool | str) -> Encoded:
        """Returns the file, encoded as far as wanted and possible."""
        try:
            outputs = self._outputs(self._content)
        except RunError as error:
            # From TensorFlow 2.20 on, no Python package brings the runtime for these.
            if not self._options["select_tf_ops"]:
                raise
            encoded = self._encoded(self._content, [], None, failure=error.reason)
            return _with_reason(encoded, "not run, and so not tried")
        dense = self._encoded(self._content, [], outputs)
        if sparse is True:
            return self._all_encoded()
        if sparse is False:
            return _with_reason(dense, "as asked for")
        for excluded in _exclusions(self._content):
            content, reasons, prevented = self._encode(lambda *weight, e=excluded: _refused(*weight, e, self.runtime))
            if not self._choice.on and len(content) >= len(self._content):
                return _with_reason(dense, "sparse would be no smaller")
            with contextlib.suppress(RunError):
                received = self._outputs(content)
                if compare(outputs, received).maximum <= _TOLERANCE * largest(outputs):
                    return self._encoded(content, reasons, received, prevented=prevented)
        return _with_reason(dense, f"{self.runtime} does not run the sparse file")

    def _all_encoded(self) -> Encoded:
        content, reasons, prevented = self._encode()
        try:
            return self._encoded(content, reasons, self._outputs(content), prevented=prevented)
        except RunError as error:
            received = self._outputs(content, default_delegate=False)
            return self._encoded(content, reasons, received, failure=error.reason, prevented=prevented)

    def _encode(self, *refuse: Callable) -> tuple[bytes, list[str], tuple[Cluster, ...]]:
        content, reasons = encode(self._content, *refuse, at_least_one=self._choice.on)
        content, prevented = kept_right(content, off=self._choice.off)
        return content, reasons, prevented

    def _outputs(self, content: bytes, **more: bool) -> list[dict]:
        return file_outputs(content, self._signature, self._samples, **self._options, **more)

    def _encoded(self, content: bytes, reasons: list[str], outputs: list[dict] | None, **more: Any) -> Encoded:
        comparison = None if outputs is None else compare(self._expected, outputs)
        choice = self._choice
        return Encoded(
            content, reasons, comparison, self.runtime, rewrites=choice.rewrites, sparse_kernels=choice.note, **more
        )


def _with_reason(encoded: Encoded, reason: str) -> Encoded:
    count = len(list(flatbuffer.weights_of(flatbuffer.parse(encoded.content))))
    return dataclasses.replace(encoded, reasons=[reason] * count)


def _exclusions(content: bytes) -> Iterator[str | None]:
    """Yields operations whose weights to leave dense, one after another until the file runs: none of them at first."""
    yield None
    kinds: set[str] = set()

    def note(weight: Weight, readers: list[Reader]) -> None:
        kinds.update(reader.name for reader in readers)

    encode(content, note)
    yield from sorted(kinds)


def _refused(weight: Weight, readers: list[Reader], excluded: str | None, runtime: str) -> str | None:
    if any(reader.name == excluded for reader in readers):
        return f"{runtime} does not run sparse weights of {excluded}"
    return refused_by_xnnpack(weight, readers)


def refused_by_xnnpack(weight: Weight, readers: list[Reader]) -> str | None:
    """Returns why LiteRT's default delegate, XNNPACK, cannot run with a weight that is stored sparsely, or None.

    XNNPACK fills the zeros in when it takes over an operation. As of LiteRT 2.3 it then fails to prepare convolutions
    and matrix products that read 8-bit weights but floating-point inputs, and the matrix products of integers; and it
    leaves the 16-bit weights of operations that it does not take over undefined.
    """
    for reader in readers:
        if weight.dtype == np.int8 and not reader.quantized and reader.name in _PRODUCTS:
            return f"XNNPACK fails to prepare {reader.name} of floats with sparse int8 weights"
        if weight.dtype == np.int8 and reader.name == "FULLY_CONNECTED":
            return "XNNPACK fails to prepare FULLY_CONNECTED with sparse int8 weights"
        if reader.dequantized and reader.name not in _PRODUCTS:
            return f"XNNPACK does not fill in sparse {weight.dtype.name} weights of {reader.name}"
    return None
