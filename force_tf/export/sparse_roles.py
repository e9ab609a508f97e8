"""Which operations XNNPACK can compute with channels before height and width, and which of these come out wrong."""

from __future__ import annotations

from typing import Any

from force_tf.export.operators import Graph, Node, drawn_in, padding
from force_tf.models.keras_internals.tflite_schema import schema

# Operations on each number by itself. The delegate of some versions may leave those of the second line to others.
_UNARY = {"ABS", "CEIL", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6", "TANH"}
_UNARY_OF_SOME = {"COS", "GELU", "LOG", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE"}


def graph_of(model: schema.ModelT, graph: schema.SubGraphT, *, doubtful: bool, split: bool) -> Graph:
    """Returns the nodes of a subgraph.

    Args:
        model: The file.
        graph: One of its subgraphs.
        doubtful: Whether operations count as computing in the other layout of which this may depend on the version.
        split: Whether operations that the delegate does not know split the graph.
    """
    result = Graph(model, graph)
    pads = drawn_in(result)
    for position, operator in enumerate(graph.operators):
        if position in pads.values() or result.is_unpacking(position):
            continue
        pad = pads.get(position)
        inputs = [index for index in operator.inputs if index >= 0 and not result.is_constant(index)]
        if pad is not None:
            inputs[0] = graph.operators[pad].inputs[0]
        node = result.add(position, inputs, pad)
        _classify(result, node, doubtful)
    if split:
        result.split()
    return result


def _classify(graph: Graph, node: Node, doubtful: bool) -> None:
    operator = graph.graph.operators[node.position]
    tensors = [index for index in [*operator.inputs, *operator.outputs] if index >= 0]
    kind = _CONVOLUTIONS.get(node.name) or _OTHERS.get(node.name)
    if kind is None or not len(operator.outputs):
        return
    if node.name in _CONVOLUTIONS:
        tensors = [node.inputs[0] if node.inputs else operator.inputs[0], operator.outputs[0]]
        kernel = graph.constant(operator.inputs[1])
        if kernel is None or kernel.dtype.kind != "f":
            return
    elif node.name in ("MEAN", "SUM", "RESIZE_BILINEAR"):
        tensors = [operator.inputs[0], operator.outputs[0]]
    if all(graph.is_float(index) for index in tensors):
        kind(graph, node, operator, doubtful)


def _pads_of(graph: Graph, node: Node, options: Any) -> tuple[int, int, int, int] | None:
    """Returns the explicit padding of a convolution; None where the runtime pads for "same"."""
    if node.pad is not None:
        return padding(graph, graph.graph.operators[node.pad])
    return (0, 0, 0, 0) if options.padding == schema.Padding.VALID else None


def _convolution(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    options, kernel = operator.builtinOptions, graph.constant(operator.inputs[1])
    _, height, width, channels = kernel.shape
    grouped = graph.shape(operator.inputs[0])[-1:] != (channels,)
    if grouped or (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return
    strides, pads = (options.strideH, options.strideW), _pads_of(graph, node, options)
    if (height, width) == (1, 1) and strides == (1, 1) and not any(pads or ()):
        node.role, node.pointwise, node.kernel = "inside", True, (kernel.size, kernel.zeros)
    elif (height, width) == (3, 3) and strides == (2, 2) and channels == 3 and pads == (1, 1, 1, 1):
        node.role = "entry"


def _depthwise(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    options, (_, height, width, channels) = operator.builtinOptions, graph.constant(operator.inputs[1]).shape
    stride = options.strideH
    multiplied = graph.shape(operator.inputs[0])[-1:] != (channels,)
    if multiplied or height != width or height not in (3, 5) or stride != options.strideW or stride not in (1, 2):
        return
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return
    pads = _pads_of(graph, node, options)
    if pads is None and stride == 1:
        pads = (height // 2,) * 4  # which the runtime makes explicit
    if pads == (height // 2,) * 4:
        node.role = "inside"


def _matrix_product(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    kernel, ranks = graph.constant(operator.inputs[1]), (graph.rank(operator.inputs[0]), graph.rank(node.output))
    if ranks == (4, 4) and operator.builtinOptions.keepNumDims:
        node.role = "inside"
    elif doubtful:
        # Some versions let it join at any rank. Numbers of two axes have one layout, those of a map would be mixed up.
        node.role = "inside"
        node.fault = "flattens a map" if ranks[0] == 4 else None
    if node.role:
        node.kernel = (kernel.size, kernel.zeros)


def _reduction(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    axes = graph.integers(operator.inputs[1])
    if graph.rank(operator.inputs[0]) != 4 or axes is None:
        return
    node.role, node.keeps_dims = "mean", bool(operator.builtinOptions.keepDims)
    if sorted(int(axis) % 4 for axis in axes) != [1, 2]:
        node.fault = "reduces other axes than height and width"


def _unary(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    if graph.rank(operator.inputs[0]) == 4 and (doubtful or node.name in _UNARY):
        node.role = "inside"


def _binary(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    first, second = operator.inputs
    shapes = graph.shape(first), graph.shape(second)
    if any(len(shape) != 4 for shape in shapes):
        return
    vectors = [sum(size != 1 for size in shape) <= 1 for shape in shapes]
    if graph.is_constant(first):
        node.role = "inside" if vectors[0] else None
    elif graph.is_constant(second):
        # The runtime looks at the shape of the other operand.
        node.role = "inside" if doubtful and vectors[0] else None
        node.fault = "adds or multiplies a constant from the right"
    else:
        node.role = "inside"
        gates = [shape[1:3] == (1, 1) for shape in shapes]
        if shapes[0] != shapes[1] and (shapes[0][3] != shapes[1][3] or not any(gates)):
            node.fault = "broadcasts a map"


def _resize(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    if all(size > 1 for size in graph.shape(operator.inputs[0])[1:3]):
        node.role = "inside"


def _exit(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    node.role = "exit"


def _pooling(graph: Graph, node: Node, operator: schema.OperatorT, doubtful: bool) -> None:
    """A window of 1x1 is left away, or becomes a limit."""
    options = operator.builtinOptions
    if doubtful and (options.filterHeight, options.filterWidth, options.strideH, options.strideW) == (1, 1, 1, 1):
        node.role = "inside"


_CONVOLUTIONS = {"CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise, "FULLY_CONNECTED": _matrix_product}
_OTHERS = {
    "MEAN": _reduction,
    "SUM": _reduction,
    "ADD": _binary,
    "MUL": _binary,
    "RESIZE_BILINEAR": _resize,
    "DEPTH_TO_SPACE": _exit,
    "AVERAGE_POOL_2D": _pooling,
    "MAX_POOL_2D": _pooling,
    **dict.fromkeys(_UNARY | _UNARY_OF_SOME, _unary),
}
