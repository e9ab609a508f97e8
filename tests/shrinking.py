"""Random values and masks for models that are shrunk, and whether a shrunk one computes the same."""

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, settings

from force_tf.prunable import all_prunable_weights

# Shrinking changes the order of sums, and folds constants.
TOLERANCE = 1e-10
# Which Keras it is does not change from example to example.
SETTINGS = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
