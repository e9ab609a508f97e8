"""Keras's own test of a layer passes for the wrapper around every layer whose weights can be pruned."""

import inspect

import keras
import pytest
from keras.src.testing import TestCase

from force_tf.layers import MaskedLayer
from helpers.layer_cases import CASES

BATCH = 2
SLOW = ("RNN", "StackedRNNCells", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D")


@keras.saving.register_keras_serializable(package="force_tf_tests")
class Bilinear(keras.layers.Layer):
    """A custom layer that says itself what to prune of it."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 4), name="matrix")

    def call(self, inputs):
        return inputs @ self.matrix

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)

    def get_prunable_weights(self):
        return [self.matrix] if self.built else []


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_keras_own_layer_test_passes(name):
    case = CASES[name]
    attention = "value" in inspect.signature(case.layer().call).parameters

    def wrapped_layer(dtype="float32"):
        keras.config.set_dtype_policy(dtype)  # layers inside the layer take it too
        try:
            paths = [path.removeprefix("it/") for path in (*case.pruned, *case.opt_in)]
            return MaskedLayer(case.layer(), weights=paths)
        finally:
            keras.config.set_dtype_policy("float32")

    shape = (BATCH, *case.shape)
    TestCase().run_layer_test(
        wrapped_layer,
        {},
        input_shape={"query_shape": shape, "value_shape": shape} if attention else shape,
        input_dtype="int32" if case.indices else None,
        run_training_check=not attention,  # Keras's own test of attention leaves it out as well: it has two inputs
    )


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_keras_own_layer_test_passes_for_a_custom_layer():
    TestCase().run_layer_test(lambda dtype=None: MaskedLayer(Bilinear(dtype=dtype)), {}, input_shape=(BATCH, 3))


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_keras_own_layer_test_passes_for_a_layer_that_several_wrappers_share():
    regularized = keras.layers.Dense(4, kernel_regularizer="l2", kernel_constraint="max_norm")
    TestCase().run_layer_test(MaskedLayer, {"layer": regularized}, input_shape=(BATCH, 3))
