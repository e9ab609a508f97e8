"""`TFLiteReport`: what an export wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class TensorZeros:
    """The zeros of one weight tensor in a TFLite file.

    Attributes:
        name: The tensor's name in the file. The converter makes it from the names of layers and operations.
        shape: Its shape in the file; the converter may have transposed the layer's kernel.
        dtype: Its type in the file, such as "float32".
        size: Its number of values.
        zeros: How many of them are exactly zero.
        sparse: Whether only the non-zero values are stored, and their places.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    zeros: int
    sparse: bool


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """What `export_tflite` wrote; prints as a table.

    Attributes:
        path: The file.
        bytes: Its size in bytes.
        gzip_bytes: Its size when compressed with gzip.
        dense_bytes: The size of the same architecture without zeros in its kernels.
        dense_gzip_bytes: The size of that when compressed with gzip.
        sparse: Whether the file uses sparse encoding.
        encoding_reason: Why it does, or does not.
        batch_size: The batch size of the inputs, None if it may vary.
        max_difference: The largest absolute difference between the file's outputs and the Keras model's.
        samples: On how many sample inputs they were compared.
        tensors: The weight tensors, read back from the file.
    """

    path: str
    bytes: int
    gzip_bytes: int
    dense_bytes: int
    dense_gzip_bytes: int
    sparse: bool
    encoding_reason: str
    batch_size: int | None
    max_difference: float
    samples: int
    tensors: tuple[TensorZeros, ...]

    @property
    def zeros(self) -> int:
        """The number of zeros in all weight tensors."""
        return sum(tensor.zeros for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dict of plain values, ready for JSON."""
        report = dataclasses.asdict(self)
        report["tensors"] = [{**tensor, "shape": list(tensor["shape"])} for tensor in report["tensors"]]
        return report

    def __str__(self) -> str:
        sizes = [
            ("", "bytes", "gzip"),
            ("file", f"{self.bytes:,}", f"{self.gzip_bytes:,}"),
            ("dense model", f"{self.dense_bytes:,}", f"{self.dense_gzip_bytes:,}"),
            ("ratio", f"{self.dense_bytes / self.bytes:.1f}x", f"{self.dense_gzip_bytes / self.gzip_bytes:.1f}x"),
        ]
        facts = [
            ("encoding", f"{'sparse' if self.sparse else 'dense'}: {self.encoding_reason}"),
            ("batch size", "any" if self.batch_size is None else str(self.batch_size)),
            ("max difference", f"{self.max_difference:.3g} from the Keras model, on {self.samples} samples"),
        ]
        tensors = [("tensor", "shape", "zeros", "of", "encoding")]
        for tensor in self.tensors:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            encoding = "sparse" if tensor.sparse else "dense"
            tensors.append((tensor.name, shape, f"{tensor.zeros:,}", f"{tensor.size:,}", encoding))
        tensors.append(("total", "", f"{self.zeros:,}", f"{sum(tensor.size for tensor in self.tensors):,}", ""))
        parts = [_aligned(sizes, "<>>"), _aligned(facts, "<<"), _aligned(tensors, "<<>><")]
        return "\n\n".join([self.path, *parts])


def _aligned(rows: Sequence[Sequence[str]], alignments: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, alignments, widths)).rstrip() for row in rows)
    return "\n".join(lines)
