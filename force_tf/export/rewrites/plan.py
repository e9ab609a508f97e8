"""Finds what of a file the sparse kernels could take, and with which rewrites."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from force_tf.export import flatbuffer
from force_tf.export.multiply_adds import PRODUCTS, multiply_adds_of
from force_tf.export.operators import Graph, Node
from force_tf.export.rewrites.constants import put_constants_first
from force_tf.export.rewrites.gates import MULTIPLE
from force_tf.export.rewrites.means import keep_axes
from force_tf.export.rewrites.pads import pad_explicitly
from force_tf.export.sparse_roles import graph_of
from force_tf.models.keras_internals.tflite_schema import schema


@dataclasses.dataclass(frozen=True)
class Product:
    """An operation that multiplies with weights.

    Attributes:
        label: Its name, and that of its kernel.
        kernel: The name of its kernel in the file, or None.
        multiply_adds: How many it computes for one sample.
        inside: Whether it could run with the other layout.
        sparse: Whether its kernel could be multiplied with sparsely.
        obstacle: Why not, if it is not inside.
    """

    label: str
    kernel: str | None
    multiply_adds: int
    inside: bool
    sparse: bool
    obstacle: str | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What could run with sparse kernels if the images are flipped so.

    Attributes:
        flipped: Whether the images are flipped in height and in width.
        inside: The operations, by their numbers in the subgraph as it is.
        entries: Those of them that turn the layout.
        ended: The means that must lose their axes.
        gates: The operations whose maps leave, each with those inside that go on reading its map.
        products: All operations with weights.
        obstacle: Why nothing can run so, or None.
    """

    flipped: tuple[bool, bool]
    inside: frozenset[int]
    entries: tuple[int, ...]
    ended: frozenset[int]
    gates: dict[int, tuple[int, ...]]
    products: tuple[Product, ...]
    obstacle: str | None

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of the operations whose kernels could be multiplied with sparsely."""
        return sum(product.multiply_adds for product in self.products if product.sparse)


def plan_for(content: bytes) -> Plan:
    """Returns how most of a file's first subgraph could run with sparse kernels; no flip where none is needed."""
    plans = [_planned(content, flipped) for flipped in _FLIPS]
    return max(plans, key=lambda plan: (plan.multiply_adds, -sum(plan.flipped)))


_FLIPS = ((False, False), (True, True), (True, False), (False, True))


def tagged(model: schema.ModelT) -> schema.SubGraphT:
    """Notes on each operation of the first subgraph its number there, which outlasts rewrites; returns the subgraph."""
    graph = model.subgraphs[0]
    for number, operator in enumerate(graph.operators):
        operator.origin = number
    return graph


def origin(operator: Any) -> int | None:
    """Returns the number that `tagged` noted, None of what was added since."""
    return getattr(operator, "origin", None)


def _planned(content: bytes, flipped: tuple[bool, bool]) -> Plan:
    # All that may be rewritten is, to see what the operations could be then; what is not inside will be left as it is.
    model = flatbuffer.parse(content)
    graph = tagged(model)
    keep_axes(model, graph, lambda operator: True)
    put_constants_first(model, graph, lambda operator: True)
    pad_explicitly(model, graph, flipped, lambda operator: True)
    seen = graph_of(model, graph, doubtful=False, split=True)
    search = _Search(seen, any(flipped))
    search.run()
    return search.plan(flipped)


class _Search:
    """Follows the other layout through a graph, and back where a map could not leave it."""

    def __init__(self, graph: Graph, flipped: bool):
        self._graph, self._flipped = graph, flipped
        self._excluded: dict[int, str] = {}
        self._ended: set[int] = set()
        self._inside: dict[int, Node] = {}

    def run(self) -> None:
        """Finds what can be inside, so that every map that leaves can pass a gate."""
        while True:
            self._inside = self._followed()
            changed = False
            for node in self._inside.values():
                if node.role == "mean":
                    if node.keeps_dims and node.number not in self._ended and not self._leads_back(node):
                        self._ended.add(node.number)
                        changed = True
                elif self._leaves(node) and self._graph.shape(node.output)[3] % MULTIPLE:
                    channels = self._graph.shape(node.output)[3]
                    self._excluded[node.number] = (
                        f"the map of {node.label} leaves with {channels} channels, not a multiple of {MULTIPLE}"
                    )
                    changed = True
            if not changed:
                return

    def _followed(self) -> dict[int, Node]:
        inside: dict[int, Node] = {}
        for node in self._graph.nodes:
            enters = node.role == "entry" and node.number not in self._excluded
            if enters or self._why_not(node, inside) is None:
                inside[node.number] = node
        return inside

    def _why_not(self, node: Node, inside: dict[int, Node]) -> str | None:
        """Returns why a node cannot be inside, or None."""
        if node.number in self._excluded:
            return self._excluded[node.number]
        if node.role in (None, "exit", "entry"):
            return f"{node.label} cannot run in the other layout"
        if node.fault is not None:
            return f"{node.label} {node.fault}"
        if self._flipped and not self._may_be_flipped(node):
            return f"{node.label} computes something else on flipped maps"
        for tensor in node.inputs:
            producer = self._graph.producer(tensor, node)
            if producer is None:
                return f"{node.label} reads what comes from outside"
            if producer.number not in inside or not self._hands_on(producer):
                return f"{node.label} reads the result of {producer.label}"
        return None if node.inputs else f"{node.label} reads constants alone"

    def _hands_on(self, node: Node) -> bool:
        return node.role != "mean" or (node.keeps_dims and node.number not in self._ended)

    def _may_be_flipped(self, node: Node) -> bool:
        operator = self._graph.graph.operators[node.position]
        if node.name == "RESIZE_BILINEAR":
            return operator.builtinOptions.halfPixelCenters or operator.builtinOptions.alignCorners
        constants = [self._graph.shape(index) for index in operator.inputs if self._graph.is_constant(index)]
        return node.name not in ("ADD", "MUL") or all(shape[1:3] == (1, 1) for shape in constants)

    def _leaves(self, node: Node) -> bool:
        return self._graph.is_output(node.output) or any(
            reader.number not in self._inside for reader in self._graph.readers(node.output)
        )

    def _leads_back(self, mean: Node) -> bool:
        """Returns whether what is made of a mean meets a map inside, and on the way only what is safe there."""
        readers = self._graph.readers(mean.output)
        known = all(reader.number in self._inside and reader.pointwise for reader in readers)
        if not readers or not known or self._graph.is_output(mean.output):
            return False
        reached, waiting = {mean.output}, [mean.output]
        while waiting:
            for reader in self._graph.readers(waiting.pop()):
                outputs = self._graph.graph.operators[reader.position].outputs
                waiting += [index for index in outputs if index not in reached]
                reached |= set(outputs)
        met = (node for node in self._inside.values() if node.output in reached)
        return any(set(node.inputs) - reached for node in met if set(node.inputs) & reached)

    def plan(self, flipped: tuple[bool, bool]) -> Plan:
        """Returns what was found."""
        origins = {node.number: self._origin(node) for node in self._graph.nodes}
        gates = {}
        for node in self._inside.values():
            if node.role != "mean" and self._leaves(node):
                readers = {each.number for each in self._graph.readers(node.output)} & set(self._inside)
                gates[origins[node.number]] = tuple(sorted(origins[number] for number in readers))
        entries = tuple(origins[node.number] for node in self._inside.values() if node.role == "entry")
        return Plan(
            flipped=flipped,
            inside=frozenset(origins[number] for number in self._inside),
            entries=entries,
            ended=frozenset(origins[number] for number in self._ended & set(self._inside)),
            gates=gates,
            products=tuple(self._products()),
            obstacle=self._obstacle(),
        )

    def _origin(self, node: Node) -> int:
        return self._graph.graph.operators[node.position].origin

    def _products(self) -> Sequence[Product]:
        found = []
        for node in self._graph.nodes:
            if node.name not in PRODUCTS:
                continue
            operator = self._graph.graph.operators[node.position]
            kernel = self._graph.constant(operator.inputs[1])
            inside = node.number in self._inside
            found.append(
                Product(
                    label=node.label,
                    kernel=None if kernel is None else kernel.name,
                    multiply_adds=multiply_adds_of(self._graph, node),
                    inside=inside,
                    sparse=inside and node.kernel is not None,
                    obstacle=None if inside else self._why_not(node, self._inside),
                )
            )
        return found

    def _obstacle(self) -> str | None:
        if any(node.kernel is not None for node in self._inside.values()):
            return None
        if any(node.role == "entry" for node in self._inside.values()):
            entry = next(node for node in self._inside.values() if node.role == "entry")
            reasons = [self._why_not(reader, self._inside) for reader in self._graph.readers(entry.output)]
            reasons += [self._why_not(node, self._inside) for node in self._graph.nodes if node.pointwise]
            return next((reason for reason in reasons if reason), "there is no 1x1 convolution")
        first = next((node for node in self._graph.nodes if node.name == "CONV_2D"), None)
        if first is None:
            return "there is no convolution"
        return self._excluded.get(first.number) or (
            f"{first.label} is no 3x3 convolution of stride 2 on 3 channels whose paddings amount to 1 on every side"
        )
