"""tf_keras's own test of a layer passes for the wrapper around every layer whose weights can be pruned."""

import numpy as np
import pytest
import tf_keras
from tf_keras.src.testing_infra.test_utils import layer_test

from force_tf.layers.tf_keras import MaskedLayer
from helpers import layer_cases
from helpers.layer_cases import CASES

BATCH = 2
# tf_keras's `SpectralNormalization` builds with an `InputSpec` of `tf.keras`, and so not where that is Keras 3.
NOT_IN_TF_KERAS = {"ReversibleEmbedding", "GroupQueryAttention", "SpectralNormalization"}
SLOW = {"SimpleRNN", "LSTM", "GRU", "RNN", "StackedRNNCells", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D"}
NAMES = [name for name in CASES if name not in {*NOT_IN_TF_KERAS, "MultiHeadAttention"}]  # which has two inputs


@tf_keras.saving.register_keras_serializable(package="force_tf_tests")
class SelfAttention(tf_keras.layers.Layer):
    """Attention with one input, as the test of a layer asks for."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = tf_keras.layers.MultiHeadAttention(2, 3, name="attention")

    def call(self, inputs):
        return self.attention(inputs, inputs)


@tf_keras.saving.register_keras_serializable(package="force_tf_tests")
class Bilinear(tf_keras.layers.Layer):
    """A custom layer that says itself what to prune of it."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 4), name="matrix")
        super().build(input_shape)

    def call(self, inputs):
        return inputs @ self.matrix

    def get_prunable_weights(self):
        return [self.matrix] if self.built else []


def check(layer, paths, input_shape, indices=False):
    data = np.random.default_rng(0).integers(0, 5, (BATCH, *input_shape)) if indices else None
    layer_test(
        MaskedLayer,
        {"layer": layer, "weights": paths},
        input_shape=(BATCH, *input_shape),
        input_data=data,
        input_dtype="int32" if indices else None,
        expected_output_dtype="float32",
    )


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NAMES])
def test_layer_test_of_tf_keras_passes(name, monkeypatch):
    monkeypatch.setattr(layer_cases, "layers", tf_keras.layers)  # of which the table then makes its layers
    case = CASES[name]
    paths = [path.removeprefix("it/") for path in (*case.pruned, *case.opt_in)]
    check(case.layer(), paths, case.shape, case.indices)


def test_layer_test_of_tf_keras_passes_for_attention():
    paths = [f"attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")]
    check(SelfAttention(), paths, (6, 3))


def test_layer_test_of_tf_keras_passes_for_a_custom_layer():
    check(Bilinear(), None, (3,))
