"""The networks of the pruning-at-initialization papers, in their MNIST and CIFAR forms.

`build("vgg19", (32, 32, 3), classes=10, seed=0)` returns a Keras model that ends in logits. Its weights depend on
nothing but the seed, and on which Keras draws them. With BatchNorm they are drawn from the Kaiming normal distribution
(variance 2 / fan_in, not truncated), as in the FORCE paper; without it, from that of Glorot, as in the SNIP paper:
there the larger weights of Kaiming make the paper's learning rate of 0.1 diverge.

References:
    - LeNet: LeCun et al., 1998, in the forms of SNIP, arXiv 1810.02340.
    - VGG: arXiv 1409.1556, with BatchNorm and one classifier layer as in GraSP, arXiv 2002.07376.
    - ResNet: arXiv 1512.03385; for CIFAR the first convolution is 3x3 with stride 1, without pooling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np

Tensor = Any  # a symbolic tensor of either Keras

# Channels of the 3x3 convolutions between the pooling layers.
_VGG = {
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class _Layers:
    """Makes layers with seeded weights and, if asked for, an L2 penalty on every trainable weight.

    Hidden layers have `width` times the channels that they are asked for, at least one.

    Attributes:
        plain: The module `layers` of the Keras in use, for layers without weights.
    """

    def __init__(
        self, module: ModuleType, initializer: Callable[..., Any], seed: int, weight_decay: float, width: float
    ):
        self.plain = module.layers
        self._width = width
        self._initializer = initializer
        self._random = np.random.default_rng(seed)
        # L2(c) adds c * w**2 to the loss, whose gradient is 2 * c * w: c is half of what PyTorch calls weight_decay.
        # Keras's own `weight_decay` of SGD is another thing: it bypasses the momentum and shrinks the weights directly.
        self._penalty = module.regularizers.L2(weight_decay / 2) if weight_decay else None

    def _kernel_initializer(self) -> Any:
        # Each layer has its own seed: one seed for all would give layers of equal shape equal weights.
        return self._initializer(seed=int(self._random.integers(2**31)))

    def _scaled(self, channels: int) -> int:
        return max(1, round(channels * self._width))

    def hidden(self, units: int, name: str, activation: str) -> Any:
        return self._dense(self._scaled(units), name, activation)

    def logits(self, classes: int) -> Any:
        return self._dense(classes, "logits", None)

    def _dense(self, units: int, name: str, activation: str | None) -> Any:
        return self.plain.Dense(
            units,
            activation,
            kernel_initializer=self._kernel_initializer(),
            kernel_regularizer=self._penalty,
            bias_regularizer=self._penalty,
            name=name,
        )

    def conv(self, filters: int, size: int, name: str, **options) -> Any:
        return self.plain.Conv2D(
            self._scaled(filters),
            size,
            kernel_initializer=self._kernel_initializer(),
            kernel_regularizer=self._penalty,
            bias_regularizer=self._penalty if options.get("use_bias", True) else None,
            name=name,
            **options,
        )

    def conv_norm(self, x: Tensor, filters: int, size: int, name: str, strides: int = 1) -> Tensor:
        """A convolution without bias, then BatchNorm with PyTorch's defaults."""
        x = self.conv(filters, size, f"{name}_conv", strides=strides, padding="same", use_bias=False)(x)
        return self.plain.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            gamma_regularizer=self._penalty,
            beta_regularizer=self._penalty,
            name=f"{name}_norm",
        )(x)


def _lenet_300_100(x: Tensor, layers: _Layers) -> Tensor:
    x = layers.plain.Flatten(name="flatten")(x)
    x = layers.hidden(300, "dense_1", "relu")(x)
    return layers.hidden(100, "dense_2", "relu")(x)


def _lenet_5(x: Tensor, layers: _Layers) -> Tensor:
    # Two unpadded 5x5 convolutions with pooling leave nothing of an image below 16 pixels.
    padding = "valid" if min(x.shape[1:3]) >= 16 else "same"
    for block, filters in enumerate((20, 50), start=1):
        x = layers.conv(filters, 5, f"conv_{block}", activation="relu", padding=padding)(x)
        x = layers.plain.MaxPooling2D(2, name=f"pool_{block}")(x)
    x = layers.plain.Flatten(name="flatten")(x)
    return layers.hidden(500, "dense", "relu")(x)


def _small_convnet(x: Tensor, layers: _Layers) -> Tensor:
    for block, filters in enumerate((32, 64, 96), start=1):
        x = layers.conv_norm(x, filters, 3, f"block{block}")
        x = layers.plain.ReLU(name=f"block{block}_relu")(x)
        if block == 1:
            x = layers.plain.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return layers.plain.GlobalAveragePooling2D(name="average_pool")(x)


def _vgg(x: Tensor, layers: _Layers, *, blocks: Sequence[Sequence[int]], poolings: int = 4) -> Tensor:
    for b, block in enumerate(blocks, start=1):
        for c, filters in enumerate(block, start=1):
            name = f"block{b}_{c}"
            x = layers.conv_norm(x, filters, 3, name)
            x = layers.plain.ReLU(name=f"{name}_relu")(x)
        if b <= poolings:
            # Padding changes nothing for even sizes, and lets images below 32 pixels through.
            x = layers.plain.MaxPooling2D(2, padding="same", name=f"block{b}_pool")(x)
    return layers.plain.GlobalAveragePooling2D(name="average_pool")(x)


def _resnet(x: Tensor, layers: _Layers, *, stem: int, widths: Sequence[int], blocks: Sequence[int], block) -> Tensor:
    x = layers.plain.ReLU(name="stem_relu")(layers.conv_norm(x, stem, 3, "stem"))
    for s, (width, repeats) in enumerate(zip(widths, blocks), start=1):
        for b in range(1, repeats + 1):
            x = _residual(x, layers, block, width, strides=2 if s > 1 and b == 1 else 1, name=f"stage{s}_{b}")
    return layers.plain.GlobalAveragePooling2D(name="average_pool")(x)


def _residual(x: Tensor, layers: _Layers, convolutions, width: int, strides: int, name: str) -> Tensor:
    """A residual block; `convolutions` lists (kernel size, filters per width, whether it takes the stride)."""
    shortcut = x
    for c, (size, expansion, strided) in enumerate(convolutions, start=1):
        x = layers.conv_norm(x, width * expansion, size, f"{name}_{c}", strides if strided else 1)
        if c < len(convolutions):
            x = layers.plain.ReLU(name=f"{name}_{c}_relu")(x)
    if shortcut.shape != x.shape:
        shortcut = layers.conv_norm(shortcut, width * convolutions[-1][1], 1, f"{name}_shortcut", strides)
    x = layers.plain.Add(name=f"{name}_add")([x, shortcut])
    return layers.plain.ReLU(name=f"{name}_relu")(x)


_BASIC = ((3, 1, True), (3, 1, False))
_BOTTLENECK = ((1, 1, False), (3, 1, True), (1, 4, False))

_WITHOUT_NORM = ("lenet_300_100", "lenet_5")

_BODIES: dict[str, Callable[[Tensor, _Layers], Tensor]] = {
    "lenet_300_100": _lenet_300_100,
    "lenet_5": _lenet_5,
    "small_convnet": _small_convnet,
    **{name: functools.partial(_vgg, blocks=blocks) for name, blocks in _VGG.items()},
    # For images of 16x16: without the last pooling, so that block 5 sees 2x2 pixels as it does of images of 32x32.
    # Where it sees a single one, eight of the nine weights of each of its kernels only ever meet the padding.
    "vgg19_16px": functools.partial(_vgg, blocks=_VGG["vgg19"], poolings=3),
    "resnet20": functools.partial(_resnet, stem=16, widths=(16, 32, 64), blocks=(3, 3, 3), block=_BASIC),
    "resnet50": functools.partial(_resnet, stem=64, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3), block=_BOTTLENECK),
}

NAMES = tuple(_BODIES)


def build(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    weight_decay: float = 0.0,
    module: ModuleType = keras,
    width: float = 1.0,
) -> keras.Model:
    """Builds a network that ends in logits.

    Args:
        name: One of `NAMES`.
        input_shape: Height, width and channels of the images.
        classes: Number of classes, the width of the last layer.
        seed: Seed of the initial weights: equal seeds give equal weights.
        weight_decay: PyTorch's `weight_decay`, as an L2 penalty on every trainable weight. Searches for masks leave
            penalties out of the score, so that it changes the training only.
        module: The Keras to build it with: `keras` or `tf_keras`.
        width: What the channels of every hidden layer are multiplied by, for narrow forms.

    Returns:
        A built, uncompiled `keras.Model` from (batch, height, width, channels) to (batch, classes).

    Raises:
        ValueError: If there is no network of that name.

    Example:

    >>> build("lenet_300_100", (28, 28, 1), classes=10).count_params()
    266610
    """
    if name not in _BODIES:
        raise ValueError(f"Expected one of the networks {', '.join(NAMES)}. Received: {name!r}")
    kaiming = functools.partial(module.initializers.VarianceScaling, 2.0, "fan_in", "untruncated_normal")
    initializer = module.initializers.GlorotNormal if name in _WITHOUT_NORM else kaiming
    layers = _Layers(module, initializer, seed, weight_decay, width)
    images = module.Input(input_shape, name="images")
    features = _BODIES[name](images, layers)
    return module.Model(images, layers.logits(classes)(features), name=name)
