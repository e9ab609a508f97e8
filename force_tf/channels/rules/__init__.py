"""What each kind of layer does to channels: which of its outputs are constant, which inputs it needs, how it is cut."""

from __future__ import annotations

from typing import Any

from force_tf.channels.rules.attention import Attention
from force_tf.channels.rules.base import PINNED, ChannelRule, Cut, channels
from force_tf.channels.rules.channelwise import (
    Activated,
    Concatenated,
    Dropped,
    Elementwise,
    Flattened,
    Merge,
    Normalized,
    Padding,
    ParametricRelu,
    Passing,
    Permuted,
    Rescaled,
    Reshaped,
    Weighted,
)
from force_tf.channels.rules.kernels import Affine, Depthwise, Grouped, Separable, Table
from force_tf.channels.rules.normalizations import GroupNormalized, LayerNormalized, Positional
from force_tf.channels.rules.operations import operation_rule
from force_tf.channels.rules.recurrent import Recurrent
from force_tf.layers.wrappers import masks_of
from force_tf.models.graph import GraphCall
from force_tf.models.layer_kinds import copies_as, registered
from force_tf.models.paths import unwrapped

__all__ = ["PINNED", "ChannelRule", "Cut", "channels", "rule_for"]

_POOLINGS = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
# By the names that `copies_as` returns. Of several rules of a kind the first that fits holds.
_CHANNEL_RULES: dict[str, type[ChannelRule] | tuple[type[ChannelRule], ...]] = {
    "Dense": Affine,
    **{f"Conv{n}D": (Affine, Grouped) for n in "123"},
    **{f"Conv{n}DTranspose": Affine for n in "123"},
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), Depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), Separable),
    **dict.fromkeys(("ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"), Elementwise),
    "Activation": Activated,
    "Dropout": Dropped,
    **dict.fromkeys(("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), Passing),
    **dict.fromkeys(("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"), Passing),
    **{f"{kind}{n}D": Passing for kind in (*_POOLINGS, "UpSampling", "Cropping") for n in "123"},
    **{f"ZeroPadding{n}D": Padding for n in "123"},
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), Merge),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), Recurrent),
    "MultiHeadAttention": Attention,
    "BatchNormalization": Normalized,
    "GroupNormalization": GroupNormalized,
    "LayerNormalization": (Positional, LayerNormalized),
    "Rescaling": Rescaled,
    "PReLU": ParametricRelu,
    "Embedding": Table,
    **dict.fromkeys(("Concatenate", "ops.Concatenate"), Concatenated),
    "Flatten": Flattened,
    "Permute": Permuted,
    "Reshape": Reshaped,
    "RepeatVector": Passing,
}
# By the names that `register_layer` takes.
_CHANNEL_BEHAVIOURS = {"elementwise": Weighted, "passing": Passing}


def rule_for(layer: Any, masked: bool, shapes: tuple, call: GraphCall) -> ChannelRule:
    """Returns the rule of a layer.

    Args:
        layer: A layer, a wrapper of one, or an operation of Keras's.
        masked: Whether zeros are those of masks alone, because other weights are going to be trained.
        shapes: The shapes of the inputs, but for masks of positions, and of the outputs of a call.
        call: That call.
    """
    inner = unwrapped(layer)
    operation = operation_rule(inner, shapes, call)
    if operation is not None:
        return operation
    # An operation may be called as a layer that takes other arguments.
    kinds = _registered(inner) or _CHANNEL_RULES.get(copies_as(inner), ())
    if getattr(inner, "data_format", None) == "channels_first":
        kinds = ()
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    kind = next((kind for kind in kinds if kind.fits(inner, shapes)), ChannelRule)
    masks = masks_of(layer) if inner is not layer else {}
    return kind(inner, masks if masked else None, shapes)


def _registered(layer: Any) -> type[ChannelRule] | None:
    """Returns the rule that `register_layer` was told of a custom layer, or None."""
    found = registered(layer, "channels")
    return _CHANNEL_BEHAVIOURS[found] if isinstance(found, str) else found
