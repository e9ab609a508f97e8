"""Which parts of a TFLite file a phone's runtime computes with sparse kernels, and whether they are right there.

On Arm, and on x86 without AVX, XNNPACK turns clusters of operations to another layout, channels before height and
width, in which it has sparse kernels for 1x1 convolutions. It does not check that a cluster ends in an operation that
turns the layout back: what else reads a result of the cluster takes it for the layout that it is not in. A PC with AVX
never switches, so that running a file there tells nothing about it. The rules are those of ai-edge-litert 2.0 on Arm
and 2.3 on x86, found by running files and by reading `xnn_subgraph_rewrite_for_nchw` and the operators of XNNPACK.
Where versions may differ, a cluster counts as wrong if it is wrong under any of the readings.

References:
    Elsen et al., Fast Sparse ConvNets, CVPR 2020: the kernels.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Sequence

from force_tf.export import flatbuffer
from force_tf.export.operators import Graph, Node
from force_tf.export.sparse_roles import graph_of
from force_tf.models.keras_internals.tflite_schema import schema

#: What may become of a cluster on Arm.
SPARSE, WRONG, OFF = "sparse", "wrong", "off"

# A cluster switches where more than this part of its weights is zero.
_ZEROS, _OF = 2, 3
_NOTHING_SPARSE = "no floating-point weight of the file is stored sparsely"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Operations that switch to sparse kernels together, or not at all.

    Attributes:
        graph: The number of the subgraph.
        entries: The 3x3 convolutions that the cluster begins with, by their numbers in the subgraph.
        operations: All its operations, with the names of their kernels or results.
        verdict: `SPARSE`: they run with sparse kernels on Arm, and come out right. `WRONG`: they come out wrong there.
            `OFF`: they run as they do elsewhere.
        reasons: Why it is wrong, or off.
        weights: The size of the kernels of its 1x1 convolutions.
        zeros: How many of these weights are zero.
        products: The operations that multiply with these weights, by their numbers in the subgraph.
    """

    graph: int
    entries: tuple[int, ...]
    operations: tuple[str, ...]
    verdict: str
    reasons: tuple[str, ...]
    weights: int
    zeros: int
    products: tuple[int, ...]


def clusters_of(model: schema.ModelT, sparse: bool | None = None) -> list[Cluster]:
    """Returns the clusters of a parsed file that begin as the sparse kernels need it.

    Args:
        model: The file.
        sparse: Whether to take it that a weight of the file is stored sparsely. None: look.
    """
    clusters, sparse = [], stores_sparsely(model) if sparse is None else sparse
    for number, graph in enumerate(model.subgraphs):
        readings = [graph_of(model, graph, doubtful=doubtful, split=split) for doubtful, split in _READINGS]
        if any(node.role == "entry" for node in readings[0].nodes):
            clusters += _settled(number, [_Reading(reading, sparse).clusters() for reading in readings])
    return clusters


# Whether operations count as compatible that some versions may not know, and whether the delegate leaves operations to
# others. The first reading is that which was measured.
_READINGS = tuple(itertools.product((False, True), (True, False)))


def stores_sparsely(model: schema.ModelT) -> bool:
    """Returns whether a file has what makes the runtime think of sparse kernels: one sparse floating-point weight."""
    return any(weight.sparse and weight.dtype.kind == "f" for weight in flatbuffer.weights_of(model))


@dataclasses.dataclass
class _Found:
    """A cluster under one reading."""

    nodes: list[Node]
    verdict: str
    reasons: list[str]
    weights: int
    zeros: int


def _settled(number: int, readings: Sequence[Sequence[_Found]]) -> list[Cluster]:
    """Returns the clusters of the first reading, wrong where any reading finds something wrong behind their entries."""
    clusters = []
    for found in readings[0]:
        entries = {node.position for node in found.nodes if node.role == "entry"}
        others = [
            other
            for reading in readings
            for other in reading
            if entries & {node.position for node in other.nodes if node.role == "entry"}
        ]
        worst = next((other for other in others if other.verdict == WRONG), found)
        clusters.append(
            Cluster(
                graph=number,
                entries=tuple(sorted(entries)),
                operations=tuple(node.label for node in sorted(worst.nodes, key=lambda node: node.position)),
                verdict=worst.verdict,
                reasons=tuple(dict.fromkeys(worst.reasons)),
                weights=worst.weights,
                zeros=worst.zeros,
                products=tuple(sorted(node.position for node in worst.nodes if node.kernel)),
            )
        )
    return clusters


class _Reading:
    """Follows what XNNPACK does with a graph."""

    def __init__(self, graph: Graph, sparse: bool):
        self._graph = graph
        self._sparse = sparse
        # Nodes that read something of another layout, and why.
        self._blocked: dict[int, str] = {}
        self._leaders = list(range(len(graph.nodes)))

    def clusters(self) -> list[_Found]:
        """Returns what becomes of each cluster that has an entry."""
        graph = self._graph
        ends = self._unite()
        members = collections.defaultdict(list)
        for node in graph.nodes:
            if node.role:
                members[self._leader(node.number)].append(node)
        with_entry = [nodes for nodes in members.values() if any(node.role == "entry" for node in nodes)]
        reasons = {id(nodes): self._reasons_off(nodes) for nodes in with_entry}
        on = {node.number for nodes in with_entry if not reasons[id(nodes)] for node in nodes if node.role != "entry"}
        found = []
        for nodes in with_entry:
            off = reasons[id(nodes)] or self._mixed(nodes, on)
            weights, zeros = (sum(node.kernel[i] for node in nodes if node.kernel) for i in (0, 1))
            if not off and not ends:
                off = ["no MEAN, SUM or DEPTH_TO_SPACE reads a result of it"]
            if not off and _OF * zeros <= _ZEROS * weights:
                off = [f"no more than two thirds of its weights are zero: {zeros:,} of {weights:,}"]
            if not off and not self._sparse:
                off = [_NOTHING_SPARSE]
            faults = [] if off else self._faults(nodes)
            verdict = OFF if off else WRONG if faults else SPARSE
            found.append(_Found(nodes, verdict, off or faults, weights, zeros))
        return found

    def _leader(self, number: int) -> int:
        while self._leaders[number] != number:
            number = self._leaders[number]
        return number

    def _unite(self) -> bool:
        """Joins each node to the producers of what it reads; returns whether one that turns the layout back was."""
        ends = False
        for node in self._graph.nodes:
            if node.role in (None, "entry"):
                continue
            for tensor in node.inputs:
                producer = self._graph.producer(tensor, node)
                if producer is not None and producer.role not in (None, "exit"):
                    ends = ends or node.role in ("mean", "exit")
                if producer is None:
                    self._blocked[node.number] = f"{node.label} reads what comes from outside"
                elif producer.role in (None, "exit") or producer.number in self._blocked:
                    self._blocked.setdefault(node.number, f"{node.label} reads the result of {producer.label}")
                else:
                    self._leaders[self._leader(producer.number)] = self._leader(node.number)
        return ends

    def _reasons_off(self, nodes: Sequence[Node]) -> list[str]:
        if len(nodes) == 1:
            return ["nothing that follows is of a kind that can run sparsely"]
        return [self._blocked[node.number] for node in nodes if node.number in self._blocked][:1]

    def _mixed(self, nodes: Sequence[Node], on: set[int]) -> list[str]:
        """Returns the first value that operations inside and outside of the cluster read."""
        for node in nodes:
            readers = self._graph.readers(node.output)
            inside = [reader for reader in readers if reader.number in on]
            if inside and (len(inside) < len(readers) or self._graph.leaves(node.output, inside[0])):
                other = next((reader.label for reader in readers if reader.number not in on), "who calls the file")
                return [f"the result of {node.label} is read by {inside[0].label}, and by {other} too"]
        return []

    def _faults(self, nodes: Sequence[Node]) -> list[str]:
        """Returns what comes out wrong where the cluster has switched."""
        numbers = {node.number for node in nodes}
        faults = [f"{node.label} {node.fault}" for node in nodes if node.fault]
        for node in nodes:
            readers = self._graph.readers(node.output)
            inside = [reader for reader in readers if reader.number in numbers]
            outside = [reader for reader in readers if reader.number not in numbers]
            if node.role == "mean" and node.keeps_dims and any(not reader.pointwise for reader in inside):
                faults.append(f"{node.label} keeps its axes, and {inside[0].label} reads it")
            if inside or node.role == "exit" or self._graph.rank(node.output) != 4:
                continue
            at_end = self._graph.is_output(node.output)
            if node.role == "mean" and not at_end and all(reader.name in ("RESHAPE", "SHAPE") for reader in outside):
                continue
            if at_end:
                faults.append(f"the result of {node.label} leaves the file")
            elif outside:
                faults.append(f"{outside[0].label} reads the result of {node.label}")
        return faults
