"""Convolutions by windows of 3x3 or 5x5: what they pad, and whether as much on every side amounts to the same."""

from __future__ import annotations

import dataclasses

from force_tf.export.operators import Graph, padding
from force_tf.models.keras_internals.tflite_schema import schema


@dataclasses.dataclass(frozen=True)
class Window:
    """A convolution whose window the sparse kernels know, if its paddings are right.

    Attributes:
        operator: The operation.
        image: The tensor that it reads, before any padding.
        side: The size of the window.
        stride: The steps of the window.
        sizes: Height and width of the image, -1 for what may vary.
        results: Height and width of the result.
        pads: (before, behind) of height and of width; None where the runtime pads for "same".
    """

    operator: schema.OperatorT
    image: int
    side: int
    stride: int
    sizes: tuple[int, int]
    results: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]] | None

    @property
    def fits_as_it_is(self) -> bool:
        """Whether the sparse kernels know these paddings."""
        half = self.side // 2
        return (self.pads is None and self.stride == 1) or self.pads == ((half, half), (half, half))

    def fits(self, flipped: tuple[bool, bool]) -> bool:
        """Returns whether half of the window on every side amounts to the paddings that it has.

        A window of stride 2 need not reach the last rows of what is padded, so that what counts is where the first one
        begins; in a flipped image that is where the last one ends.

        Args:
            flipped: Whether the image is flipped in height and in width.
        """
        if self.pads is None and self.stride == 1:
            return True
        half = self.side // 2
        for axis, (size, result) in enumerate(zip(self.sizes, self.results)):
            if size < 1:
                # Of any size, if they are padded so already.
                if self.pads is None or self.pads[axis] != (half, half) or flipped[axis]:
                    return False
                continue
            reach = (result - 1) * self.stride + self.side
            before = self.pads[axis][0] if self.pads is not None else max(reach - size, 0) // 2
            begin = reach - before - size if flipped[axis] else before
            if begin != half or (size + 2 * half - self.side) // self.stride + 1 != result:
                return False
        return True


def window_of(graph: Graph, operator: schema.OperatorT, name: str) -> Window | None:
    """Returns the window of a convolution of a kind that the sparse kernels know, whatever its paddings."""
    kernel = graph.constant(operator.inputs[1]) if name in ("CONV_2D", "DEPTHWISE_CONV_2D") else None
    if kernel is None or len(kernel.shape) != 4 or graph.rank(operator.outputs[0]) != 4:
        return None
    options, (_, height, width, channels) = operator.builtinOptions, kernel.shape
    if height != width or options.strideH != options.strideW:
        return None
    if name == "CONV_2D" and (height, options.strideH, channels) != (3, 2, 3):
        return None
    if name == "DEPTHWISE_CONV_2D" and (height not in (3, 5) or options.strideH not in (1, 2)):
        return None
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return None
    image, pads = operator.inputs[0], None
    if options.padding == schema.Padding.VALID:
        pads = ((0, 0), (0, 0))
        pad = _pad_before(graph, image)
        if pad is not None:
            image, (top, bottom, left, right) = pad.inputs[0], padding(graph, pad)
            pads = ((top, bottom), (left, right))
    sizes, results = (_sizes(graph, index) for index in (image, operator.outputs[0]))
    return Window(operator, int(image), height, int(options.strideH), sizes, results, pads)


def _pad_before(graph: Graph, index: int) -> schema.OperatorT | None:
    for operator, name in zip(graph.graph.operators, graph.names):
        if name == "PAD" and operator.outputs[0] == index and padding(graph, operator) is not None:
            return operator
    return None


def _sizes(graph: Graph, index: int) -> tuple[int, int]:
    tensor = graph.graph.tensors[index]
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return int(shape[1]), int(shape[2])
