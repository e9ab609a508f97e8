"""The operations of a TFLite file as XNNPACK sees them: constants unpacked, paddings drawn into convolutions."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.flatbuffer import Weight
from force_tf.export.tensor_names import shortened
from force_tf.models.keras_internals.tflite_schema import schema

_UNPACKING = {"DENSIFY", "DEQUANTIZE"}
# What the delegate takes over.
_DELEGATED = (
    {"ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "DEPTH_TO_SPACE", "DEPTHWISE_CONV_2D", "DIV"}
    | {"EXPAND_DIMS", "FULLY_CONNECTED", "MAX_POOL_2D", "MAXIMUM", "MEAN", "MINIMUM", "MUL", "PAD", "PRELU", "RESHAPE"}
    | {"RESIZE_BILINEAR", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB"}
    | {"SUM", "TRANSPOSE", "TRANSPOSE_CONV"}
    | {"ABS", "CEIL", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6", "TANH"}
)
_FLOATS = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}


@dataclasses.dataclass
class Node:
    """An operation.

    Attributes:
        number: Its place among the nodes.
        position: Its place among the operations of the subgraph.
        name: Its name, such as "CONV_2D".
        label: The name, and what it computes with or what it makes.
        inputs: The tensors that it reads, but for constants, with a padding drawn in.
        output: The tensor that it makes.
        role: None: it cannot compute with channels before height and width. "entry": it turns the layout to that.
            "exit": it turns it back. "inside": it computes in it. "mean": it computes in it, and may turn it back.
        fault: What it does wrong in that layout, or None.
        keeps_dims: Whether a mean leaves four axes.
        pointwise: Whether it is a 1x1 convolution.
        kernel: The size of the kernel, and its zeros, if those count for the switch.
        pad: The place of the padding that is drawn in, or None.
        part: Which part of the graph, that the delegate takes over as one, it belongs to.
    """

    number: int
    position: int
    name: str
    label: str
    inputs: list[int]
    output: int
    role: str | None = None
    fault: str | None = None
    keeps_dims: bool = False
    pointwise: bool = False
    kernel: tuple[int, int] | None = None
    pad: int | None = None
    part: int = 0


class Graph:
    """The nodes of a subgraph, and who makes and reads which tensor.

    Args:
        model: The file.
        graph: The subgraph.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT):
        self.model, self.graph = model, graph
        self._weights = {weight.index: weight for weight in flatbuffer.weights_of(model) if weight.graph is graph}
        self._sources: dict[int, int] = {}  # of what is unpacked, the constant
        self.names = [flatbuffer.operation_name(model, operator) for operator in graph.operators]
        for operator, name in zip(graph.operators, self.names):
            if name in _UNPACKING and self.is_constant(operator.inputs[0]):
                self._sources[operator.outputs[0]] = operator.inputs[0]
        self.nodes: list[Node] = []
        self._producers: dict[int, Node] = {}
        self._readers: dict[int, list[Node]] = collections.defaultdict(list)

    def add(self, position: int, inputs: list[int], pad: int | None) -> Node:
        """Appends the node of an operation."""
        operator, name = self.graph.operators[position], self.names[position]
        output = operator.outputs[0] if len(operator.outputs) else -1
        node = Node(len(self.nodes), position, name, self.label(position), inputs, output, pad=pad)
        self.nodes.append(node)
        for tensor in operator.outputs:
            self._producers[tensor] = node
        for tensor in inputs:
            self._readers[tensor].append(node)
        return node

    def split(self) -> None:
        """Numbers the parts of the graph that the delegate takes over: what is left to others separates them."""
        for node in self.nodes:
            tensors = [index for index in (*node.inputs, *self.graph.operators[node.position].outputs) if index >= 0]
            taken = node.name in _DELEGATED and all(self.is_float(index) for index in tensors)
            parts = [self._producers[index].part for index in node.inputs if index in self._producers]
            # Even numbers are parts of the delegate.
            node.part = max(parts, default=0)
            node.part += (node.part % 2 == 0) != taken

    def label(self, position: int) -> str:
        """Returns the name of an operation and of its kernel, or else of its result."""
        operator = self.graph.operators[position]
        weights = [self.constant(index) for index in operator.inputs if self.constant(index) is not None]
        kernel = max(weights, key=lambda weight: weight.size, default=None)
        tensor = self.graph.tensors[operator.outputs[0]] if len(operator.outputs) else None
        name = kernel.tensor.name if kernel is not None else tensor.name if tensor is not None else None
        return f"{self.names[position]} {shortened((name or b'?').decode())!r}"

    def is_unpacking(self, position: int) -> bool:
        """Returns whether an operation unpacks a constant."""
        return any(index in self._sources for index in self.graph.operators[position].outputs)

    def is_constant(self, index: int) -> bool:
        """Returns whether a tensor is known beforehand."""
        if index in self._sources:
            return True
        data = self.model.buffers[self.graph.tensors[index].buffer].data
        return data is not None and len(data) > 0

    def constant(self, index: int) -> Weight | None:
        """Returns the stored weight behind a tensor, if it is one."""
        while index in self._sources:
            index = self._sources[index]
        return self._weights.get(index) if index >= 0 else None

    def integers(self, index: int) -> np.ndarray | None:
        """Returns a constant of integers."""
        tensor = self.graph.tensors[index]
        dtype = {schema.TensorType.INT32: "int32", schema.TensorType.INT64: "int64"}.get(tensor.type)
        data = self.model.buffers[tensor.buffer].data
        return None if dtype is None or data is None else np.frombuffer(np.asarray(data, "u1").tobytes(), dtype)

    def shape(self, index: int) -> tuple[int, ...]:
        """Returns the shape of a tensor, with 1 for a size that may vary."""
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(map(int, shape))

    def rank(self, index: int) -> int:
        """Returns the number of a tensor's axes."""
        return len(self.shape(index))

    def is_float(self, index: int) -> bool:
        """Returns whether a tensor holds floating-point numbers."""
        return self.graph.tensors[index].type in _FLOATS

    def is_output(self, index: int) -> bool:
        """Returns whether a tensor is an output of the subgraph."""
        return index in self.graph.outputs

    def producer(self, index: int, reader: Node) -> Node | None:
        """Returns the node that makes a tensor in the reader's part of the graph, or None."""
        producer = self._producers.get(index)
        return producer if producer is not None and producer.part == reader.part else None

    def readers(self, index: int) -> list[Node]:
        """Returns the nodes that read a tensor, one as often as it reads it."""
        return self._readers[index]

    def leaves(self, index: int, reader: Node) -> bool:
        """Returns whether a tensor leaves the part of the graph that a reader of it belongs to."""
        return self.is_output(index) or any(other.part != reader.part for other in self.readers(index))


def drawn_in(graph: Graph) -> dict[int, int]:
    """Maps the places of convolutions to those of the paddings that XNNPACK draws into them."""
    operators = graph.graph.operators
    readers = collections.Counter(index for operator in operators for index in operator.inputs)
    pads = {
        operator.outputs[0]: position
        for position, (operator, name) in enumerate(zip(operators, graph.names))
        if name == "PAD" and padding(graph, operator) is not None
    }
    found = {}
    for position, (operator, name) in enumerate(zip(operators, graph.names)):
        if name not in ("CONV_2D", "DEPTHWISE_CONV_2D") or operator.inputs[0] not in pads:
            continue
        padded = operator.inputs[0]
        valid = operator.builtinOptions.padding == schema.Padding.VALID
        if valid and readers[padded] == 1 and not graph.is_output(padded):
            found[position] = pads[padded]
    return found


def padding(graph: Graph, operator: schema.OperatorT) -> tuple[int, int, int, int] | None:
    """Returns (top, bottom, left, right) of a padding of height and width alone."""
    paddings = graph.integers(operator.inputs[1])
    if paddings is None or len(paddings) != 8 or any(paddings[[0, 1, 6, 7]]):
        return None
    return tuple(map(int, paddings[2:6]))
