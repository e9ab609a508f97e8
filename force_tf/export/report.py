"""`TFLiteReport`: what an export wrote."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from force_tf.export.check import on_arm
from force_tf.export.multiply_adds import MultiplyAdds
from force_tf.export.sparse_kernels import Cluster
from force_tf.support.files import atomic_file
from force_tf.support.tables import aligned

_BYTES_PER_LINE = 12


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A weight tensor in a TFLite file.

    Attributes:
        name: The tensor's name in the file: the path that the weight has in the Keras model, such as "conv1/kernel".
            An offset with a batch normalization folded in goes by that one's "beta"; constants of operations have the
            path of the layer and a name of the converter's. A second tensor of one weight ends with "#2".
        shape: Its shape in the file; the converter may have transposed the layer's kernel.
        dtype: Its type in the file, such as "float32".
        size: Its number of values.
        zeros: How many of them are exactly zero.
        bytes: What its values, and the places of these, take in the file.
        sparse: Whether only the non-zero values are stored, and their places.
        reason: Why it is stored sparsely, or densely.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    zeros: int
    bytes: int
    sparse: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """What `export_tflite` wrote; prints as a few lines, and by `details()` with every tensor.

    Attributes:
        path: The file.
        quantize: The types of its numbers, as `export_tflite` takes them.
        bytes: Its size in bytes.
        gzip_bytes: Its size when compressed with gzip, at its default level of 6.
        zstd_bytes: Its size when compressed with Zstandard; None if the package `zstandard` is missing.
        dense_bytes: The size of a float32 file of the same architecture without zeros in its kernels.
        dense_gzip_bytes: The size of that when compressed with gzip.
        dense_zstd_bytes: The size of that when compressed with Zstandard, or None.
        batch_size: The batch size of the inputs, None if it may vary.
        max_difference: The largest absolute difference between the file's outputs and the Keras model's; None if the
            file could not be run.
        mean_difference: The mean absolute difference, or None.
        top_class_agreement: The fraction of samples for which the class of the largest output is the same; None if no
            output is of shape (batch, classes).
        samples: On how many sample inputs they were compared.
        runtime: What ran the file: the name and version of a package.
        failure: Why the default interpreter cannot load the file, or None. Only files with `sparse=True`, or with
            operations of TensorFlow's, may have one.
        min_runtime_version: The smallest version of the TFLite runtime that knows the file's operations.
        operations: How often each operation stands in the file.
        tensors: The weight tensors, read back from the file.
        clusters: What the runtime of a phone may compute with sparse kernels, and whether it does; see `check_tflite`.
        prevented: What would have come out wrong there, and why; other paddings keep it from the sparse kernels.
        rewrites: What was rewritten in the graph for phones' sparse kernels, and how often; the outputs are the same.
        sparse_kernels: What was done about these kernels, what it brings, or what stands in the way, in a sentence.
        multiply_adds: Those of a batch: `dense`, what a runtime takes that multiplies by zeros; `on_phones`, where
            sparse kernels leave them out; `with_sparse_kernels`, the part of `dense` that these run. None if unknown.
        verified_on: The processors on which the file's outputs were compared with the Keras model's: that of this
            machine, and the emulated ones of `verify_on=`.
    """

    path: str
    quantize: str | None
    bytes: int
    gzip_bytes: int
    zstd_bytes: int | None
    dense_bytes: int
    dense_gzip_bytes: int
    dense_zstd_bytes: int | None
    batch_size: int | None
    max_difference: float | None
    mean_difference: float | None
    top_class_agreement: float | None
    samples: int
    runtime: str
    failure: str | None
    min_runtime_version: str | None
    operations: dict[str, int]
    tensors: tuple[StoredTensor, ...]
    clusters: tuple[Cluster, ...] = ()
    prevented: tuple[Cluster, ...] = ()
    rewrites: dict[str, int] = dataclasses.field(default_factory=dict)
    sparse_kernels: str = ""
    multiply_adds: MultiplyAdds | None = None
    verified_on: tuple[str, ...] = ()

    @property
    def zeros(self) -> int:
        """The number of zeros in all weight tensors."""
        return sum(tensor.zeros for tensor in self.tensors)

    @property
    def sparse(self) -> bool:
        """Whether any tensor is stored sparsely."""
        return any(tensor.sparse for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dict of plain values, ready for JSON."""
        report = dataclasses.asdict(self)
        report["tensors"] = [{**tensor, "shape": list(tensor["shape"])} for tensor in report["tensors"]]
        return report

    def write_c_array(self, path: str | os.PathLike, name: str | None = None) -> None:
        """Writes the file as the source of a C array, to be compiled into the firmware of a microcontroller.

        The array is aligned to 16 bytes, as TFLite Micro needs it, and constant, so that it stays in flash memory.

        Args:
            path: The C file to write.
            name: The name of the array; its length stands in `<name>_len`. None: made of the name of the file.

        Raises:
            OSError: If the TFLite file cannot be read, or the C file cannot be written.
            ValueError: If `name` is no identifier of C.
        """
        if name is None:
            name = re.sub(r"\W", "_", os.path.splitext(os.path.basename(path))[0], flags=re.ASCII)
            name = name if name[:1].isalpha() or name[:1] == "_" else f"model_{name}"
        if not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
            raise ValueError(f"Expected `name` to be an identifier of C. Received: name={name!r}")
        with open(self.path, "rb") as file:
            content = file.read()
        with atomic_file(path) as file:
            file.write(_c_source(content, name).encode())

    def __str__(self) -> str:
        return "\n\n".join(
            [self.path, self._sizes(), aligned([*self._outcome(), self._tensors(), *self._faults()], "<<")]
        )

    def details(self) -> str:
        """Returns the whole report as text: what it prints, what the file needs, and a table of every tensor."""
        facts = aligned([*self._outcome(), *self._needs(), *self._faults()], "<<")
        return "\n\n".join([self.path, self._sizes(), facts, self._tensor_table()])

    def _sizes(self) -> str:
        rows = [
            ["", "bytes", "gzip", "zstd"],
            [self.quantize or "float32", self.bytes, self.gzip_bytes, self.zstd_bytes],
            ["dense float32", self.dense_bytes, self.dense_gzip_bytes, self.dense_zstd_bytes],
        ]
        if self.zstd_bytes is None:
            rows = [row[:-1] for row in rows]
        ratios = [f"{dense / small:.1f}x" for small, dense in zip(rows[1][1:], rows[2][1:])]
        cells = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in rows]
        return aligned([*cells, ["ratio", *ratios]], "<>>>")

    def _outcome(self) -> list[tuple[str, str]]:
        difference = "unknown, since the file could not be run"
        if self.max_difference is not None:
            gaps = f"{self.max_difference:.3g} at most, {self.mean_difference:.3g} on average"
            difference = f"{gaps}, from the Keras model on {self.samples} samples"
        facts = [("difference", difference)]
        if self.top_class_agreement is not None:
            facts.append(("top class", f"the same for {self.top_class_agreement:.1%} of the samples"))
        return facts

    def _tensors(self) -> tuple[str, str]:
        sparse, size = sum(tensor.sparse for tensor in self.tensors), sum(tensor.size for tensor in self.tensors)
        zeros = f"{self.zeros / size:.1%} zeros" if size else "no weights"
        return "tensors", f"{len(self.tensors)}, {sparse} of them stored sparsely; {zeros}; `details()` lists them"

    def _needs(self) -> list[tuple[str, str]]:
        facts = [
            ("runtime", f"{self.runtime}; needs TFLite {self.min_runtime_version or 'of an unknown version'}"),
            ("batch size", "any" if self.batch_size is None else str(self.batch_size)),
            ("operations", ", ".join(f"{count} {name}" for name, count in self.operations.items())),
            ("verified on", ", ".join(self.verified_on) or "no processor"),
        ]
        facts += [("on Arm", on_arm(self.clusters))] * self.sparse
        facts += [("sparse kernels", self.sparse_kernels)] * self._without_kernels
        counts = self.multiply_adds
        if counts is not None and counts.with_sparse_kernels:
            facts.append(("multiply-adds", f"{counts.dense:,} on a PC, {counts.on_phones:,} with sparse kernels"))
        return facts

    @property
    def _without_kernels(self) -> bool:
        """Whether the file is of those, the most, that have nothing to do with sparse kernels."""
        return self.sparse_kernels.startswith("none")

    def _faults(self) -> list[tuple[str, str]]:
        """What a user must know of the file, or would not expect in it."""
        facts = [("sparse kernels", self.sparse_kernels)] * (bool(self.sparse_kernels) and not self._without_kernels)
        facts += [("kept right", f"{cluster.reasons[0]}, mixed up by sparse kernels") for cluster in self.prevented]
        return facts if self.failure is None else [*facts, ("does not load", self.failure)]

    def _tensor_table(self) -> str:
        rows = [("tensor", "shape", "type", "zeros", "of", "bytes", "encoding")]
        for tensor in self.tensors:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            encoding = f"{'sparse' if tensor.sparse else 'dense'}: {tensor.reason}"
            numbers = (f"{number:,}" for number in (tensor.zeros, tensor.size, tensor.bytes))
            rows.append((tensor.name, shape, tensor.dtype, *numbers, encoding))
        totals = (sum(getattr(tensor, what) for tensor in self.tensors) for what in ("zeros", "size", "bytes"))
        rows.append(("total", "", "", *(f"{total:,}" for total in totals), ""))
        return aligned(rows, "<<<>>><")


def _c_source(content: bytes, name: str) -> str:
    lines = (content[start : start + _BYTES_PER_LINE] for start in range(0, len(content), _BYTES_PER_LINE))
    numbers = ",\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in line) for line in lines)
    # Constants of C++ are known to their own file only, unless they are declared otherwise.
    return (
        f'#ifdef __cplusplus\nextern "C" {{\n#endif\n'
        f"extern const unsigned char {name}[];\nextern const unsigned int {name}_len;\n"
        "#ifdef __cplusplus\n}\n#endif\n\n"
        "#ifdef __cplusplus\nalignas(16)\n#else\n_Alignas(16)\n#endif\n"
        f"const unsigned char {name}[] = {{\n{numbers}\n}};\n"
        f"const unsigned int {name}_len = {len(content)};\n"
    )
