"""Models that Keras cannot copy, of either Keras, and what the tests of them share."""

import functools
import types

import numpy as np
import tensorflow as tf

from force_tf.masks import Masks
from force_tf.models.prunable import all_prunable_weights, prunable_weights

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 4)).astype("float32")


@functools.cache
def classes_of(keras):
    """Returns the classes below, made of one Keras."""
    layers = keras.layers

    class Block(layers.Layer):
        """A layer of layers, one of them Keras's own with layers inside."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense, self.attention = layers.Dense(4), layers.MultiHeadAttention(1, 2)

        def call(self, inputs):
            x = tf.expand_dims(self.dense(inputs), 1)
            return inputs + tf.squeeze(self.attention(x, x), 1)

    class Inner(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.logits = layers.Dense(4, kernel_regularizer="l2", kernel_constraint="max_norm")

        def call(self, inputs):
            return self.logits(inputs)

    class Everything(keras.Model):
        """Layers in every place that Keras tracks, none of them with a name."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = layers.Dense(4, activation="tanh")
            self.stack = [layers.Dense(4), [layers.Dense(4), layers.Dense(4)]]
            self.by_name = {"b": layers.Dense(4), "a": {"c": layers.Dense(4)}}
            self.pair = (layers.Dense(4), [layers.Dense(4)])
            self.block = Block()
            self.inner = Inner()
            inputs, twice = keras.Input((4,)), layers.Dense(4, activation="tanh")
            self.graph = keras.Model(inputs, twice(twice(inputs)))
            self.sequence = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5)])

        def call(self, inputs):
            x = self.first(inputs)
            for layer in (self.stack[0], *self.stack[1], self.by_name["b"], self.by_name["a"]["c"], self.pair[0]):
                x = x + layer(x)
            return self.sequence(self.graph(self.inner(self.block(self.pair[1][0](x)))))

    return types.SimpleNamespace(Block=Block, Inner=Inner, Everything=Everything)


@functools.cache
def two_layers(keras):
    class TwoLayers(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
            self.logits = keras.layers.Dense(4, name="logits")

        def call(self, inputs):
            return self.logits(self.hidden(inputs))

    return TwoLayers


@functools.cache
def tied(keras):
    class Tied(keras.Model):
        """Uses a layer's weight itself, and one layer under several names."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.encoder = keras.layers.Dense(3, use_bias=False, name="encoder")
            self.also_encoder = self.encoder
            self.again = [self.encoder]
            self.again_too = self.again

        def call(self, inputs):
            codes = self.encoder(inputs) + self.also_encoder(inputs) + self.again[0](inputs)
            return tf.matmul(codes, tf.transpose(self.encoder.kernel))

    return Tied


def with_a_constructor_of_its_own(keras):
    class Scaled(keras.Model):
        def __init__(self, units, strength):
            inputs = keras.Input((4,))
            super().__init__(inputs, keras.layers.Dense(units, name="logits")(inputs), name="scaled")
            self.strength = strength

        def train_step(self, data):
            x, y = data
            return super().train_step((x, self.strength * y))

    return Scaled(4, strength=2.0)


def with_a_layer_without_config(keras):
    class NoConfig(keras.layers.Layer):
        def __init__(self, units, activation):
            super().__init__(name="no_config")
            self.dense, self.activation = keras.layers.Dense(units, name="dense"), activation

        def call(self, inputs):
            return self.activation(self.dense(inputs))

    first = keras.layers.Dense(4, name="first")
    return keras.Sequential([keras.Input((4,)), first, NoConfig(4, tf.nn.relu)])


def with_variables_of_its_own(keras):
    class Own(keras.Model):
        pass

    inputs = keras.Input((4,))
    model = Own(inputs, keras.layers.Dense(4, name="logits")(inputs))
    model.scale = getattr(keras, "Variable", tf.Variable)(2.0, trainable=False)
    return model


def built(model_class):
    model = model_class()
    model(X)
    return model


def masks_for(model, seed=0):
    rng = np.random.default_rng(seed)
    weights, left_out = prunable_weights(model)
    return Masks({weight.path: rng.random(weight.shape) < 0.5 for weight in weights}, left_out=left_out)


def variables_by_path(model):
    return {weight.path: weight.variable for weight in all_prunable_weights(model)}


def output_by_hand(model, masks):
    """Returns what a model computes with θ⊙m put into its weights by hand, and puts the weights back."""
    kernels = variables_by_path(model)
    before = {path: kernels[path].numpy() for path in masks}
    for path, value in before.items():
        kernels[path].assign(value * masks[path])
    output = model(X).numpy()
    for path, value in before.items():
        kernels[path].assign(value)
    return output


def assert_zeros(model, masks):
    for path, variable in variables_by_path(model).items():
        pruned = variable.numpy()[~masks[path]]
        assert not pruned.any(), f"{path} has pruned weights of {np.abs(pruned).max()}"


def without_graph(keras):
    """Returns a built model of one layer whose graph Keras does not know."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="subclassed")
            self.dense = keras.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.ones((1, 3)))
    return model
