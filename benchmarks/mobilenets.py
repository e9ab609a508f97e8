"""MobileNets for images of 32x32: the first ones' layers, with less strides, so that maps of 4x4 are left.

References:
    - MobileNets, arXiv 1704.04861, table 1; MobileNetV2, arXiv 1801.04381, table 2. Of their five strides of 2, the
      first, the second and the fourth are kept.
"""

from __future__ import annotations

from typing import Any

import keras

layers = keras.layers
# Output channels and stride of each block of MobileNet; expansion, output channels, blocks and first stride of
# MobileNetV2's groups.
_V1 = [(64, 1), (128, 2), (128, 1), (256, 1), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 1), (1024, 1)]
_V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 1), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1)]
NAMES = ("MobileNet", "MobileNetV2")


def build(name: str, alpha: float, classes: int, seed: int) -> keras.Model:
    """Returns a network from images of 32x32 in three colours to logits.

    Args:
        name: One of `NAMES`.
        alpha: The part of the channels of the paper's network, as in `keras.applications`.
        classes: Number of classes.
        seed: Seed of the weights.
    """
    keras.utils.set_random_seed(seed)
    images = keras.Input((32, 32, 3), name="images")
    x = _normalized(layers.Conv2D(_rounded(32 * alpha), 3, 2, "same", use_bias=False, name="stem")(images), "stem")
    x = _v1(x, alpha) if name == "MobileNet" else _v2(x, alpha)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(images, layers.Dense(classes, name="classes")(x), name=name)


def _v1(x: Any, alpha: float) -> Any:
    for number, (channels, stride) in enumerate(_V1, start=1):
        x = _depthwise(x, stride, f"block_{number}_depthwise")
        x = _pointwise(x, _rounded(channels * alpha), f"block_{number}_pointwise")
    return x


def _v2(x: Any, alpha: float) -> Any:
    blocks = [(t, c, stride if first else 1) for t, c, n, stride in _V2 for first in [True, *[False] * (n - 1)]]
    for number, (expansion, channels, stride) in enumerate(blocks):
        before, channels = x, _rounded(channels * alpha)
        if expansion > 1:
            x = _pointwise(x, expansion * x.shape[-1], f"block_{number}_expand")
        x = _depthwise(x, stride, f"block_{number}_depthwise")
        x = _pointwise(x, channels, f"block_{number}_project", activate=False)
        if before.shape == x.shape:
            x = layers.Add(name=f"block_{number}_add")([before, x])
    return _pointwise(x, max(1280, _rounded(1280 * alpha)), "last")


def _depthwise(x: Any, stride: int, name: str) -> Any:
    return _normalized(layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=name)(x), name)


def _pointwise(x: Any, channels: int, name: str, activate: bool = True) -> Any:
    return _normalized(layers.Conv2D(channels, 1, use_bias=False, name=name)(x), name, activate)


def _normalized(x: Any, name: str, activate: bool = True) -> Any:
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, but not less than nine tenths, as in `keras.applications`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
