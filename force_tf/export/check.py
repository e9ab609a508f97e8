"""`check_tflite`: whether a TFLite file computes on phones what it computes on a PC."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from force_tf.export import flatbuffer
from force_tf.export.sparse_kernels import SPARSE, WRONG, Cluster, clusters_of
from force_tf.export.sparse_repair import kept_right
from force_tf.support.files import atomic_file
from force_tf.support.tables import aligned


@dataclasses.dataclass(frozen=True)
class TFLiteCheck:
    """What `check_tflite` found; prints as a few lines.

    Attributes:
        path: The file.
        clusters: The parts that begin as sparse kernels need it, each with its `operations`, the `verdict` ("sparse":
            runs with sparse kernels on Arm, and right; "wrong": comes out wrong there; "off": runs as elsewhere), the
            `reasons` for that, and the `weights` of its 1x1 convolutions and their `zeros`.
    """

    path: str
    clusters: tuple[Cluster, ...]

    @property
    def right(self) -> bool:
        """Whether nothing in the file comes out wrong on Arm."""
        return all(cluster.verdict != WRONG for cluster in self.clusters)

    @property
    def sparse(self) -> bool:
        """Whether anything in the file runs with sparse kernels on Arm."""
        return any(cluster.verdict == SPARSE for cluster in self.clusters)

    def repair(self, path: str | os.PathLike) -> TFLiteCheck:
        """Writes a copy of the file that comes out right on Arm too, and computes the same everywhere.

        The first convolution of each part that is wrong gets other paddings, with which the part stays with the kernels
        that it runs with elsewhere. Where nothing is wrong, the copy is as the file.

        Args:
            path: The copy to write; may be the file itself.

        Returns:
            What `check_tflite` finds in the copy.

        Raises:
            OSError: If the file cannot be read any more, or the copy cannot be written.
        """
        with open(self.path, "rb") as file:
            content, _ = kept_right(file.read())
        with atomic_file(path) as file:
            file.write(content)
        return check_tflite(path)

    def to_dict(self) -> dict[str, Any]:
        """Returns what was found as a dict of plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [(cluster.verdict, "; ".join(cluster.reasons) or _extent(cluster)) for cluster in self.clusters]
        return "\n".join([f"{self.path}: {on_arm(self.clusters)}", *([aligned(lines, "<<")] if lines else [])])


def check_tflite(path: str | os.PathLike) -> TFLiteCheck:
    """Tells what of a TFLite file runs with sparse kernels on phones, and whether it computes there what it should.

    The runtime's XNNPACK has sparse kernels on Arm and on x86 without AVX. It takes them for networks of 1x1 and
    depthwise convolutions of a certain form if a weight of the file is stored sparsely, and more than two thirds of
    those of the 1x1 convolutions are zero. Some files then come out wrong, or do not load, which a PC with AVX never
    shows. The file is not run: it is held against rules that were found by running files on emulated processors.

    Args:
        path: A TFLite file, of `export_tflite` or of other origin.

    Returns:
        A `TFLiteCheck`: the parts of the file that begin as the sparse kernels need it, what becomes of each, and why;
        whether all is right; and `repair`, which writes a copy that is.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TFLite file.

    Example:

    >>> check = force_tf.check_tflite("model.tflite")
    >>> check.right, check.repair("repaired.tflite").right
    (True, True)
    """
    path = os.fsdecode(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a TFLite file. Received: {path!r}, which does not exist.")
    with open(path, "rb") as file:
        content = file.read()
    return TFLiteCheck(path, tuple(clusters_of(flatbuffer.parse_checked(content, path))))


def on_arm(clusters: Sequence[Cluster]) -> str:
    """Returns a sentence on what becomes of a file's clusters."""
    verdicts = [cluster.verdict for cluster in clusters]
    if WRONG in verdicts:
        return "comes out wrong on Arm and on x86 without AVX; `check_tflite(path).repair(copy)` mends it"
    if SPARSE in verdicts:
        extents = (_extent(cluster) for cluster in clusters if cluster.verdict == SPARSE)
        return f"runs with sparse kernels: {'; '.join(extents)}"
    return "runs with the same kernels as elsewhere"


def _extent(cluster: Cluster) -> str:
    zeros = f"{cluster.zeros:,} of {cluster.weights:,} weights zero"
    return f"{len(cluster.operations)} operations from {cluster.operations[0]} on, {zeros}"
