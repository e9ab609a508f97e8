"""What each kind of layer does to channels: which of its outputs are constant, which inputs it needs, how it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf import prunable
from force_tf.graph import Call
from force_tf.keras_models import is_layer
from force_tf.layers import is_graph
from force_tf.layers.wrappers import masks_of
from force_tf.shrink.rules.attention import Attention
from force_tf.shrink.rules.base import PINNED, Cut, Rule, channels, is_elementwise
from force_tf.shrink.rules.channelwise import (
    Concatenated,
    Elementwise,
    Flattened,
    Merge,
    Normalized,
    Padding,
    ParametricRelu,
    Passing,
    Reshaped,
)
from force_tf.shrink.rules.kernels import Affine, Depthwise, Grouped, Separable, Table
from force_tf.shrink.rules.normalizations import GroupNormalized, LayerNormalized, Positional
from force_tf.shrink.rules.operations import operation_rule
from force_tf.shrink.rules.recurrent import Recurrent

__all__ = ["PINNED", "Cut", "Rule", "channels", "rule_for"]

_POOLINGS = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
_RULES: dict[str, type[Rule]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D"), Affine),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), Affine),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), Depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), Separable),
    **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"), Elementwise),
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), Passing),
    **dict.fromkeys(("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"), Passing),
    **{f"{kind}{n}D": Passing for kind in (*_POOLINGS, "UpSampling", "Cropping") for n in "123"},
    **{f"ZeroPadding{n}D": Padding for n in "123"},
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), Merge),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), Recurrent),
    "MultiHeadAttention": Attention,
    "BatchNormalization": Normalized,
    "GroupNormalization": GroupNormalized,
    "LayerNormalization": LayerNormalized,
    "Rescaling": Elementwise,
    "PReLU": ParametricRelu,
    "Embedding": Table,
    "Flatten": Flattened,
    "RepeatVector": Passing,
}


def rule_for(layer: Any, masked: bool, shapes: tuple, calls: Sequence[Call]) -> Rule:
    """Returns the rule of a layer.

    Args:
        layer: A layer, a wrapper of one, or an operation of Keras's.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
        shapes: The shapes of the inputs and of the outputs of its first call.
        calls: All its calls in the graph.
    """
    inner = prunable.unwrapped(layer)
    operation = operation_rule(inner, shapes, calls)
    if operation is not None:
        return operation
    masks = masks_of(layer) if inner is not layer else {}
    is_own = type(inner).__module__.partition(".")[0] in ("keras", "tf_keras")
    name = type(inner).__name__ if is_own else ""  # a user's class may be called as one of Keras's
    kind = _RULES.get(name, Rule)
    if kind is Affine and getattr(inner, "groups", 1) != 1:
        kind = Grouped
    if not is_layer(inner) and name != "Concatenate":
        return Rule(inner, None, shapes)
    if is_graph(inner) or not _fits(kind, inner, shapes):
        kind = Rule
    if name == "LayerNormalization" and Positional.fits(inner, shapes):
        kind = Positional
    if name == "Concatenate" and inner.axis in (-1, len(shapes[0][0]) - 1):
        kind = Concatenated
    if name == "Reshape" and len(shapes[1][0]) > 1 and shapes[1][0][-1] == shapes[0][0][-1] is not None:
        kind = Reshaped
    if name == "Permute" and inner.dims[-1] == len(inner.dims):
        kind = Passing
    return kind(inner, masks if masked else None, shapes)


def _fits(kind: type[Rule], layer: Any, shapes) -> bool:
    """Returns whether a rule holds for this layer as it is configured."""
    if getattr(layer, "data_format", None) == "channels_first":
        return False
    if kind is Affine:  # which minds what its activation mixes
        return shapes[1][0][-1] == (layer.units if hasattr(layer, "units") else layer.filters)
    if kind in (Grouped, Depthwise, Separable):
        return is_elementwise(layer.activation)
    if kind is Normalized:
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        return axis in (-1, len(shapes[0][0]) - 1)
    if kind is Elementwise and type(layer).__name__ == "Activation":
        return is_elementwise(layer.activation)
    if type(layer).__name__ == "Rescaling":
        return np.ndim(layer.scale) == np.ndim(layer.offset) == 0
    if kind is Flattened:
        return None not in shapes[1][0][1:] and len(shapes[0][0]) > 1
    return kind.fits(layer, shapes)
