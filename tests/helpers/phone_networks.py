"""Small networks with the stem that phones' sparse kernels need, and what became of their files there.

Each was run with ai-edge-litert 2.0.2 on emulated Arm and with 2.3.0 on emulated x86 without AVX, its weights encoded
sparsely: "right", "wrong", or "refused" (wrong on one of them, or the file did not load).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from force_tf.export.convert import convert
from force_tf.export.samples import signature_of
from force_tf.export.sparse_encoding import encode
from force_tf.models.keras_models import array_variables

CHANNELS = 32


def _gap(keras, x, **arguments):
    return keras.layers.GlobalAveragePooling2D(**arguments)(x)


def _pointwise(keras, x, name="c", channels=CHANNELS, **arguments):
    return keras.layers.Conv2D(channels, 1, name=name, **arguments)(x)


def _classes(keras, x):
    return keras.layers.Dense(5, name="head")(x)


def _squeezed(keras, x, between=lambda gate: gate):
    gate = between(_gap(keras, x, keepdims=True))
    gate = _pointwise(keras, gate, "squeeze", 8, activation="relu")
    return keras.layers.Multiply()([x, _pointwise(keras, gate, "excite", activation="sigmoid")])


def _residual(keras, x):
    layers = keras.layers
    y = layers.ZeroPadding2D(1)(_pointwise(keras, x, "expand"))
    return layers.Add()([x, _pointwise(keras, layers.DepthwiseConv2D(3)(y), "project")])


def _merged(keras, x):
    """Two depthwise convolutions, of whose equal paddings the converter makes one."""
    layers = keras.layers
    ways = [layers.DepthwiseConv2D(3, strides=2, name=name)(layers.ZeroPadding2D(1)(x)) for name in ("left", "right")]
    return layers.Add()(ways)


def _then(operation: Callable) -> Callable:
    """Ends a network with a 1x1 convolution, a mean and a Dense layer after an operation."""
    return lambda keras, x: _classes(keras, _gap(keras, _pointwise(keras, operation(keras, x))))


#: For each network: how it goes on after the stem, what the rules say of it, and what was measured.
NETWORKS: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "mean, Dense": (lambda k, x: _classes(k, _gap(k, x)), "sparse", "right"),
    "mean with axes, Flatten": (
        lambda k, x: _classes(k, k.layers.Flatten()(_gap(k, x, keepdims=True))),
        "sparse",
        "right",
    ),
    "residual": (_then(_residual), "sparse", "right"),
    "squeeze and excite": (_then(_squeezed), "sparse", "right"),
    "tanh": (_then(lambda k, x: k.layers.Activation("tanh")(x)), "sparse", "right"),
    "bilinear": (_then(lambda k, x: k.layers.UpSampling2D(2, interpolation="bilinear")(x)), "sparse", "right"),
    "max pooling": (_then(lambda k, x: k.layers.MaxPooling2D()(x)), "wrong", "wrong"),
    "3x3": (_then(lambda k, x: k.layers.Conv2D(CHANNELS, 3, name="wide")(x)), "wrong", "wrong"),
    "one padding for two": (_then(_merged), "wrong", "wrong"),
    "two outputs": (lambda k, x: [_classes(k, _gap(k, x)), _pointwise(k, x, channels=4)], "wrong", "wrong"),
    "Flatten beside": (
        lambda k, x: k.layers.Concatenate()([_gap(k, x), k.layers.Flatten()(_pointwise(k, x, channels=2))]),
        "wrong",
        "wrong",
    ),
    "max pooling beside": (
        lambda k, x: k.layers.Concatenate()([_gap(k, x), _gap(k, k.layers.MaxPooling2D()(_pointwise(k, x)))]),
        "wrong",
        "wrong",
    ),
    "1x1 after the mean": (
        lambda k, x: k.layers.Reshape((5,))(_pointwise(k, _gap(k, x, keepdims=True), channels=5)),
        "wrong",
        "refused",
    ),
    "softmax after the mean": (lambda k, x: k.layers.Softmax()(_gap(k, x, keepdims=True)), "wrong", "wrong"),
    "relu after the mean": (
        lambda k, x: _classes(k, k.layers.Flatten()(k.layers.ReLU()(_gap(k, x, keepdims=True)))),
        "wrong",
        "refused",
    ),
    "mean added": (_then(lambda k, x: k.layers.Add()([x, _gap(k, x, keepdims=True)])), "wrong", "refused"),
    # Not relied on, though it came out right.
    "relu in a gate": (_then(lambda k, x: _squeezed(k, x, k.layers.ReLU())), "wrong", "right"),
    "gate of one channel": (
        _then(lambda k, x: k.layers.Multiply()([x, _pointwise(k, x, "gate", 1, activation="sigmoid")])),
        "wrong",
        "right",
    ),
    "same map read otherwise": (
        lambda k, x: k.layers.Concatenate()([_gap(k, x), _gap(k, k.layers.MaxPooling2D()(x))]),
        "off",
        "right",
    ),
    "no mean": (lambda k, x: x, "off", "right"),
    "no mean but a maximum": (lambda k, x: _classes(k, k.layers.GlobalMaxPooling2D()(x)), "off", "right"),
    "Dense gate": (
        _then(
            lambda k, x: k.layers.Multiply()(
                [x, k.layers.Reshape((1, 1, CHANNELS))(k.layers.Dense(CHANNELS, "sigmoid")(_gap(k, x)))]
            )
        ),
        "off",
        "right",
    ),
}


def network(name: str, module=keras, *, size=16, zeros=0.95, channels=3, stride=2, padding=1, seed=0):
    """Returns one of the networks, most weights of its 1x1 convolutions zero.

    Args:
        name: Its name in `NETWORKS`.
        module: The Keras of its layers.
        size: The height and width of its input, None if they may vary.
        zeros: The part of the weights that is zero.
        channels: The channels of its input.
        stride: The stride of its first convolution.
        padding: What is padded before that.
        seed: Seed of the weights.
    """
    layers = module.layers
    module.utils.set_random_seed(seed)
    inputs = module.Input((size, size, channels))
    x = layers.Conv2D(16, 3, strides=stride, name="stem")(layers.ZeroPadding2D(padding)(inputs))
    x = layers.ReLU()(_pointwise(module, x, "a"))
    x = _pointwise(module, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x), "b")
    model = module.Model(inputs, NETWORKS[name][0](module, layers.ReLU(6.0)(x)))
    prune_pointwise(model, zeros, np.random.default_rng(seed))
    return model


def prune_pointwise(model, zeros: float, rng: np.random.Generator) -> None:
    """Gives the 1x1 convolutions random weights, of which a part is zero."""
    for layer in model.layers:
        if getattr(layer, "kernel_size", None) == (1, 1):
            kernel, bias = layer.get_weights()
            kept = np.zeros(kernel.size, bool)
            kept[rng.permutation(kernel.size)[: round((1 - zeros) * kernel.size)]] = True
            scale = 1 / np.sqrt(kernel.shape[2] * max(1 - zeros, 0.01))
            values = rng.normal(0, scale, kernel.shape) * kept.reshape(kernel.shape)
            layer.set_weights([values, 0.3 * rng.standard_normal(bias.shape)])


def sparse_file(model, signature=None) -> bytes:
    """Returns a sparsely encoded TFLite file, as a converter would write it that knows nothing of phones."""
    values = [variable.numpy() for variable in array_variables(model)]
    return encode(convert(model, signature or signature_of(model), values))[0]


def random_network(seed: int, module=keras):
    """Returns a network with the stem, and after it random blocks and heads, some of which the kernels do not know."""
    rng, layers = np.random.default_rng(seed), module.layers
    module.utils.set_random_seed(seed)
    channels = int(rng.choice([8, 16, 32]))

    def activated(x):
        names = [None, "relu", "relu6", "tanh", "sigmoid", "elu", "swish"]
        name = rng.choice(names, p=[0.25, 0.2, 0.2, 0.1, 0.1, 0.05, 0.1])
        return x if name is None else layers.Activation(name)(x)

    def pointwise(x, count=channels):
        return activated(layers.Conv2D(count, 1)(x))

    def depthwise(x, stride=1):
        window = int(rng.choice([3, 5]))
        if stride == 1 and rng.random() < 0.6:
            return activated(layers.DepthwiseConv2D(window, padding="same")(x))
        return activated(layers.DepthwiseConv2D(window, strides=stride)(layers.ZeroPadding2D(window // 2)(x)))

    def mean(x, **arguments):
        return layers.GlobalAveragePooling2D(**arguments)(x)

    def gated(x):
        gate = layers.Conv2D(8, 1, activation="relu")(mean(x, keepdims=True))
        return layers.Multiply()([x, layers.Conv2D(channels, 1, activation="sigmoid")(gate)])

    blocks = [
        *(pointwise, pointwise, pointwise, depthwise, depthwise, gated, gated),
        lambda x: pointwise(depthwise(x, stride=2)),
        lambda x: layers.Add()([x, pointwise(depthwise(pointwise(x)))]),
        lambda x: layers.Conv2D(channels, 3, padding="same")(x),
        lambda x: layers.MaxPooling2D(2)(x),
        lambda x: layers.Concatenate()([pointwise(x, channels // 2), pointwise(x, channels // 2)]),
        lambda x: layers.Rescaling(1.3, offset=0.2)(x),
    ]
    heads = [
        *[lambda x: [layers.Dense(5)(mean(x))]] * 3,
        lambda x: [layers.Dense(5)(layers.Flatten()(mean(x, keepdims=True)))],
        lambda x: [layers.Reshape((5,))(layers.Conv2D(5, 1)(mean(x, keepdims=True)))],
        lambda x: [mean(x), pointwise(x, 3)],
        lambda x: [layers.Concatenate()([mean(pointwise(x)), layers.GlobalMaxPooling2D()(pointwise(x))])],
        lambda x: [layers.Dense(5)(layers.Flatten()(x))],
    ]
    inputs = module.Input((*[int(rng.choice([16, 24]))] * 2, 3))
    x = activated(layers.Conv2D(channels, 3, strides=2)(layers.ZeroPadding2D(1)(inputs)))
    outputs = []
    for _ in range(int(rng.integers(2, 6))):
        x = blocks[rng.integers(len(blocks))](x)
        if rng.random() < 0.05:
            outputs.append(pointwise(x, 4))
    outputs += heads[rng.integers(len(heads))](x)
    model = module.Model(inputs, outputs if len(outputs) > 1 else outputs[0])
    prune_pointwise(model, float(rng.choice([0.6, 0.75, 0.9, 0.95], p=[0.1, 0.2, 0.4, 0.3])), rng)
    return model
