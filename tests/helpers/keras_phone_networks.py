"""Small networks as Keras users write them, which phones' sparse kernels take once their graphs are rewritten."""

from __future__ import annotations

import keras
import numpy as np

from helpers.phone_networks import prune_pointwise


def _block(layers, x, *, stride=1, window=3, channels=16):
    y = layers.Conv2D(32, 1, activation="relu6")(x)
    y = layers.DepthwiseConv2D(window, strides=stride, padding="same", activation="relu6")(y)
    y = layers.Conv2D(channels, 1)(y)
    return layers.Add()([x, y]) if stride == 1 and x.shape[-1] == channels else y


def _hard_sigmoid(layers, x):
    return layers.Rescaling(1 / 6)(layers.ReLU(6.0)(layers.Rescaling(1.0, offset=3.0)(x)))


def _squeezed(layers, x):
    gate = layers.Reshape((1, 1, x.shape[-1]))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(x.shape[-1], 1)(layers.Conv2D(8, 1, activation="relu")(gate))
    return layers.Multiply()([x, _hard_sigmoid(layers, gate)])


def _dense(layers, x):
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


def _as_mobilenet(layers, x):
    return layers.Reshape((5,))(layers.Conv2D(5, 1, name="classes")(layers.GlobalAveragePooling2D(keepdims=True)(x)))


def _detector(layers, x):
    y = _block(layers, x, stride=2)
    maps = [layers.Conv2D(12, 1, name=name)(z) for name, z in (("near", x), ("far", y))]
    flat = [layers.Reshape((-1, 4))(z) for z in maps]
    return [layers.Concatenate(axis=1)(flat), layers.MaxPooling2D(2, name="pooled")(y)]


def _two_ways(layers, x):
    x = layers.Conv2D(16, 1, activation="relu")(x)
    padded = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    ways = [layers.DepthwiseConv2D(3, strides=2, name=name)(padded) for name in ("left", "right")]
    return _dense(layers, layers.Conv2D(16, 1)(layers.Add()(ways)))


#: For each network: the size of its images, how its stem pads, and what follows.
NETWORKS = {
    "even": ((16, 16), "same", _dense),
    "odd": ((17, 17), "same", _dense),
    "even and odd": ((16, 17), "same", _dense),
    "padded below": ((16, 18), ((0, 1), (0, 1)), _dense),
    "padded below and around": ((16, 18), ((0, 1), (1, 1)), _dense),
    "squeezed": ((16, 16), "same", lambda layers, x: _dense(layers, layers.Conv2D(16, 1)(_squeezed(layers, x)))),
    "1x1 convolution at the end": ((16, 16), "same", _as_mobilenet),
    "detector": ((32, 32), "same", _detector),
    "a shared padding": ((16, 16), "same", _two_ways),
    "bilinear": (
        (16, 16),
        "same",
        lambda layers, x: layers.Conv2D(4, 1)(layers.UpSampling2D(2, interpolation="bilinear")(x)),
    ),
}


def network(name: str, module=keras, *, zeros: float = 0.9, seed: int = 0):
    """Returns one of the networks, most weights of its 1x1 convolutions zero.

    Args:
        name: Its name in `NETWORKS`.
        module: The Keras of its layers.
        zeros: The part of the weights that is zero.
        seed: Seed of the weights.
    """
    layers, (size, padding, rest) = module.layers, NETWORKS[name]
    module.utils.set_random_seed(seed)
    x = inputs = module.Input((*size, 3))
    if padding != "same":
        x = layers.ZeroPadding2D(padding)(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same" if padding == "same" else "valid", name="stem")(x)
    x = _block(layers, layers.ReLU()(x))
    # Where one axis is flipped and the other is not, a window of stride 2 must fit both.
    x = _block(layers, x, stride=1 if padding == ((0, 1), (1, 1)) else 2, window=5)
    model = module.Model(inputs, rest(layers, x))
    prune_pointwise(model, zeros, np.random.default_rng(seed))
    return model
