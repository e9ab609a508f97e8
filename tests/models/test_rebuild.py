"""Copies of models: what a copy keeps beside weights, as a user sees it on the pruned model."""

import keras
import numpy as np

import force_tf

FACTOR = 3.0


def tripled(x):
    return FACTOR * x


def all_kept(model):
    return force_tf.apply_masks(model, force_tf.PruneAtInit("magnitude", sparsity=0.0).find_masks(model, verbose=0))


def test_variables_without_names_keep_theirs():
    class Nameless(keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")
            self.shift = self.add_weight(shape=(input_shape[-1],), initializer="zeros")

        def call(self, inputs):
            return inputs * self.scale + self.shift

    model = keras.Sequential([keras.Input((4,)), Nameless(name="nameless"), keras.layers.Dense(3, name="head")])
    copy = force_tf.strip_pruning(all_kept(model))
    # Keras numbers such variables throughout the process, so names that are made anew differ.
    assert [variable.name for variable in copy.variables] == [variable.name for variable in model.variables]
    assert [variable.path for variable in copy.variables] == [variable.path for variable in model.variables]


def test_a_layer_without_xla_keeps_the_pruned_model_from_it():
    class WithoutXLA(keras.layers.Dense):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.supports_jit = False

    model = keras.Sequential([keras.Input((4,)), WithoutXLA(3, name="without"), keras.layers.Dense(3, name="with")])
    pruned = all_kept(model)
    # By this Keras decides about `jit_compile="auto"`, which it never turns on where there is no accelerator.
    assert {layer.name: layer.supports_jit for layer in pruned.layers} == {"without": False, "with": True}


def test_functions_of_lambdas_find_their_globals(either_keras):
    # Of an anonymous function the configuration holds the code alone, which another module's globals do not suit.
    function = lambda x: tripled(x)  # noqa: E731
    inputs = either_keras.Input((4,))
    outputs = either_keras.layers.Lambda(function, output_shape=(4,))(inputs)
    model = either_keras.Model(inputs, either_keras.layers.Dense(3)(outputs))
    pruned = all_kept(model)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_array_equal(np.asarray(pruned(x)), np.asarray(model(x)))
    np.testing.assert_allclose(np.asarray(pruned(x)), 3.0 * x @ model.layers[-1].get_weights()[0], rtol=1e-5)
