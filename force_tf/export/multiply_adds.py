"""How many multiply-adds a TFLite file takes for a batch of its size, on a PC and with a phone's sparse kernels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from force_tf.export.operators import Graph, Node
from force_tf.export.sparse_kernels import SPARSE, Cluster
from force_tf.export.sparse_roles import graph_of
from force_tf.models.keras_internals.tflite_schema import schema

#: Operations that multiply with weights, or maps with each other.
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL")


@dataclasses.dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds for a batch of the size that the file has, 1 if it may vary.

    Attributes:
        dense: What a runtime takes that multiplies by zeros too.
        on_phones: What a runtime takes that leaves them out where it has sparse kernels.
        with_sparse_kernels: How many of `dense` are of operations that run with sparse kernels.
    """

    dense: int
    on_phones: int
    with_sparse_kernels: int


def multiply_adds(model: schema.ModelT, clusters: Sequence[Cluster]) -> MultiplyAdds:
    """Returns the multiply-adds of a parsed file, of which the clusters are known."""
    dense, sparse, kept = 0, 0, 0
    for number, graph in enumerate(model.subgraphs):
        quick = {
            place for item in clusters if item.graph == number and item.verdict == SPARSE for place in item.products
        }
        seen = graph_of(model, graph, doubtful=False, split=False)
        for node in seen.nodes:
            if node.name not in PRODUCTS:
                continue
            count = multiply_adds_of(seen, node)
            dense += count
            if node.position in quick and node.kernel is not None:
                size, zeros = node.kernel
                sparse += count
                kept += count * (size - zeros) // size
    return MultiplyAdds(dense, dense - sparse + kept, sparse)


def multiply_adds_of(graph: Graph, node: Node) -> int:
    """Returns the multiply-adds of one of the operations in `PRODUCTS`; a size that may vary counts as 1."""
    operator = graph.graph.operators[node.position]
    result = graph.shape(node.output)
    if node.name == "BATCH_MATMUL":
        return math.prod(result) * graph.shape(operator.inputs[0])[-1]
    weights = graph.constant(operator.inputs[1])
    # Of a transposed convolution each entry of the input, of the others each of the output, meets the kernel.
    places = graph.shape(operator.inputs[2]) if node.name == "TRANSPOSE_CONV" else result
    return math.prod(places[:-1]) * (0 if weights is None else weights.size)
