"""Rewrites a file, without changing what it computes, so that a phone's sparse kernels take what they can of it."""

from __future__ import annotations

import dataclasses

from force_tf.export import flatbuffer
from force_tf.export.editing import add_value, drop_unread, place_of
from force_tf.export.operators import Graph
from force_tf.export.rewrites.constants import put_constants_first
from force_tf.export.rewrites.flip import flip_kernels, reverse
from force_tf.export.rewrites.gates import add_gate
from force_tf.export.rewrites.means import drop_axes, keep_axes
from force_tf.export.rewrites.pads import pad_explicitly
from force_tf.export.rewrites.plan import Plan, origin, plan_for, tagged
from force_tf.models.keras_internals.tflite_schema import schema


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A file that has been rewritten.

    Attributes:
        content: The file, all of whose tensors are dense.
        plan: What can run with sparse kernels, and what cannot.
        rewrites: What was done, and how often; nothing if the file is as it was.
    """

    content: bytes
    plan: Plan
    rewrites: dict[str, int]


def fit(content: bytes) -> Fitted:
    """Rewrites a file for the sparse kernels.

    Args:
        content: A TFLite file all of whose tensors are dense.

    Returns:
        The new file. Inputs and outputs have the names, shapes and order that they had.
    """
    plan = plan_for(content)
    if plan.obstacle is not None:
        return Fitted(content, plan, {})
    model = flatbuffer.parse(content)
    graph = tagged(model)
    rewrites = _rewrite(model, graph, plan)
    if not rewrites:
        return Fitted(content, plan, {})
    drop_unread(model, graph)
    return Fitted(flatbuffer.serialize(model), plan, rewrites)


def _rewrite(model: schema.ModelT, graph: schema.SubGraphT, plan: Plan) -> dict[str, int]:
    by_origin = {operator.origin: operator for operator in graph.operators}

    def inside(operator: schema.OperatorT) -> bool:
        return origin(operator) in plan.inside

    done = {
        "mean that keeps its axes": keep_axes(
            model, graph, lambda each: inside(each) and each.origin not in plan.ended
        ),
        "mean that loses its axes": drop_axes(model, graph, lambda each: origin(each) in plan.ended),
        "constant put first": put_constants_first(model, graph, inside),
        "explicit padding": pad_explicitly(model, graph, plan.flipped, inside),
    }
    for number, readers in plan.gates.items():
        add_gate(model, graph, by_origin[number], [by_origin[reader] for reader in readers], plan.flipped)
    done["gate where a map leaves"] = len(plan.gates)
    if any(plan.flipped):
        done["flipped image"] = _flip(model, graph, plan)
    return {name: count for name, count in done.items() if count}


def _flip(model: schema.ModelT, graph: schema.SubGraphT, plan: Plan) -> int:
    """Flips what the entries read, and the kernels of all windows inside."""
    seen = Graph(model, graph)
    convolutions = [
        operator
        for operator, name in zip(graph.operators, seen.names)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D") and origin(operator) in plan.inside
    ]
    windows = [operator for operator in convolutions if seen.constant(operator.inputs[1]).shape[1:3] != (1, 1)]
    flip_kernels(model, graph, windows, plan.flipped)
    images: dict[int, int] = {}
    for operator in windows:
        if operator.origin not in plan.entries:
            continue
        pad = next(each for each in graph.operators if operator.inputs[0] in list(each.outputs))
        image = int(pad.inputs[0])
        if image not in images:
            images[image] = add_value(model, graph, image, "/reversed")
            reverse(model, graph, _place_behind(graph, image), image, images[image], plan.flipped)
        pad.inputs = [images[image], *pad.inputs[1:]]
    return len(images)


def _place_behind(graph: schema.SubGraphT, tensor: int) -> int:
    producers = [operator for operator in graph.operators if tensor in list(operator.outputs)]
    return place_of(graph, producers[0]) + 1 if producers else 0
