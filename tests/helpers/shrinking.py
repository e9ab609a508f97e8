"""Random values and masks for models that are shrunk, and whether a shrunk one computes the same."""

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, reject, settings

from force_tf import CollapsedError, shrink
from force_tf.models.prunable import all_prunable_weights

# Shrinking changes the order of sums, and folds constants.
TOLERANCE = 1e-10
# Which Keras it is does not change from example to example.
SETTINGS = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Examples:
    """Networks of a property test, of which those that collapse are replaced by others."""

    def __init__(self):
        self.collapsed = self.shrunk = 0

    def shrink(self, model, x):
        """Returns the shrunk model, or has hypothesis draw another example."""
        try:
            small = shrink(model)
        except CollapsedError:
            constant = [np.allclose(output, output[:1], rtol=TOLERANCE, atol=0) for output in outputs_of(model, x)]
            assert any(constant), "the network is said to collapse, but all its outputs depend on the inputs"
            self.collapsed += 1
            reject()
        self.shrunk += 1
        return small

    def check(self):
        assert self.collapsed < self.shrunk, f"{self.collapsed} networks collapsed, and {self.shrunk} did not"


def randomized(model, rng):
    """Gives every variable another value, as training does."""
    for variable in model.variables:
        if "float" in str(variable.dtype):
            positive = "variance" in getattr(variable, "path", variable.name)
            variable.assign(rng.uniform(0.5, 2, variable.shape) if positive else rng.normal(0, 0.6, variable.shape))
    return model


def random_masks(model, rng, sparsity, dead, axes=(-1, -2)):
    """Masks of random weights, and of whole indices of some axes, those of input and output channels."""
    masks = {}
    for weight in all_prunable_weights(model):
        mask = rng.random(weight.shape) >= sparsity
        for axis in axes:
            if mask.ndim >= -axis:
                mask &= (rng.random(mask.shape[axis]) >= dead).reshape(-1, *[1] * (-1 - axis))
        mask.flat[rng.integers(mask.size)] = True
        masks[weight.path] = mask
    return masks


def with_zeros(model, rng):
    """Makes scales of normalizations, and all biases of units of recurrent layers, zero here and there."""
    for layer in model.layers:
        gamma = getattr(layer, "gamma", None)
        if gamma is not None:
            gamma.assign(np.asarray(gamma) * (rng.random(gamma.shape) < 0.7))
        bias = layer.cell.bias if hasattr(layer, "cell") else None
        if bias is not None:
            bias.assign(np.asarray(bias) * np.tile(rng.random(layer.units) < 0.5, bias.shape[-1] // layer.units))
    return model


def unit_masks(model, rng, sparsity, dead):
    """Random masks, in which heads go, and units of recurrent layers lose what they read, in all gates."""
    heads = any("MultiHeadAttention" in type(layer).__name__ for layer in model.layers)
    masks = random_masks(model, rng, sparsity, dead, (-1, -2, -3) if heads else (-1, -2))
    for layer in model.layers:
        if hasattr(layer, "cell"):
            lives = rng.random(layer.units) >= dead
            for path in (path for path in masks if path.startswith(f"{layer.name}/")):
                masks[path] &= np.tile(lives, masks[path].shape[1] // layer.units)
                masks[path].flat[rng.integers(masks[path].size)] = True
    return masks


def inputs_for(model, rng):
    shape = (4, *model.input_shape[1:])
    return rng.integers(0, 11, shape) if "int" in str(model.inputs[0].dtype) else rng.normal(size=shape)


def outputs_of(model, x):
    return [np.asarray(output) for output in tf.nest.flatten(model(tf.constant(x), training=False))]


def assert_same_function(model, small, x):
    for output, expected in zip(outputs_of(small, x), outputs_of(model, x), strict=True):
        np.testing.assert_allclose(output, expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max())


def chain(keras):
    """Dense layers, with a bias and without."""
    layers = keras.layers
    stack = [
        layers.Dense(12, "relu", name="a"),
        layers.Dense(10, "tanh", use_bias=False, name="b"),
        layers.Dropout(0.5),
        layers.Dense(8, "sigmoid", use_bias=False, name="c"),
        layers.Dense(3, name="logits"),
    ]
    return keras.Sequential([keras.Input((6,)), *stack], name="chain")


def convolutions(keras):
    """Every kind of convolution and pooling, with constants that padding makes inexact."""
    layers = keras.layers
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, padding="same", name="same")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(9, 3, padding="same", activation="sigmoid", use_bias=False, name="sigmoid")(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(10, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, activation="relu", name="transposed")(x)
    x = layers.ZeroPadding2D(1)(layers.MaxPooling2D(2, padding="same")(x))
    x = layers.Conv2D(6, 1, padding="same", activation="softplus", name="one")(x)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones", name="slopes")(layers.Cropping2D(1)(x))
    x = layers.AveragePooling2D(2)(layers.UpSampling2D(2)(x))
    x = layers.Conv2D(7, 3, name="valid")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4, name="logits")(x), name="convolutions")


def branches(keras):
    """Residuals, squeeze and excite, concatenation, and a layer that is called twice."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(8, 3, padding="same", name="first")(x)
    x = layers.Activation("relu")(layers.Add()([x, layers.BatchNormalization(name="norm")(y)]))
    squeezed = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(3, "relu", name="squeeze")(squeezed)
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, "sigmoid", name="excite")(gate))
    x = layers.Multiply()([x, gate])
    shared = layers.Conv2D(8, 3, padding="same", activation="sigmoid", name="shared")
    x = layers.Concatenate()([shared(x), shared(shared(x)), layers.Conv2D(5, 1, name="side")(x)])
    x = layers.Maximum()([layers.Conv2D(6, 1, name="left")(x), layers.Conv2D(6, 1, name="right")(x)])
    x = layers.Conv2D(12, 3, groups=3, activation="sigmoid", padding="same", name="grouped")(x)
    x = layers.Conv2D(6, 3, groups=6, use_bias=False, name="again")(x)
    x = layers.Subtract()([x, layers.Conv2D(6, 1, use_bias=False, name="third")(x)])
    pooled = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, [layers.Dense(2, name="out")(pooled), pooled], name="branches")


def nested(keras):
    """A model inside a model, and a layer that no rule knows."""
    layers = keras.layers
    inner = [layers.Dense(9, "relu", name="inner_a"), layers.Dense(6, "relu", name="inner_b")]
    inner = keras.Sequential([keras.Input((7,)), *inner], name="inner")
    inputs = keras.Input((5,))
    x = layers.Dense(7, "relu", name="a")(inputs)
    x = layers.Dense(8, "relu", name="b")(inner(x))
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(6, "softmax", name="c")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="nested")


def tokens(keras):
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, name="embedding")(inputs)
    x = layers.SeparableConv1D(8, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Conv1D(8, 3, padding="causal", activation="relu", name="causal")(x)
    x = layers.Permute((1, 2))(layers.MaxPooling1D(2)(x))
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)), name="tokens")


NETWORKS = [chain, convolutions, branches, nested, tokens]
