"""`MaskedLayer` as a layer: it computes and differentiates like a plain layer that holds θ⊙m."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from force_tf.layers import MaskedLayer, wrapper_class

layers = keras.layers
LAYERS = {
    "dense": (lambda: layers.Dense(4), (2, 3)),
    "dense_regularized": (lambda: layers.Dense(4, kernel_regularizer="l2", kernel_constraint="max_norm"), (2, 3)),
    "conv2d": (lambda: layers.Conv2D(4, 3), (2, 6, 6, 3)),
    "conv1d": (lambda: layers.Conv1D(4, 3), (2, 6, 3)),
    "separable": (lambda: layers.SeparableConv2D(4, 3), (2, 6, 6, 3)),
    "einsum": (lambda: layers.EinsumDense("ab,bc->ac", output_shape=4), (2, 3)),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), (2, 5, 3)),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(4)), (2, 5, 3)),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Dense(4)), (2, 5, 3)),
}


def random_masks(wrapper, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    return {weight.path: rng.random(weight.variable.shape) < density for weight in wrapper.masked_weights}


@pytest.mark.parametrize("name", LAYERS)
def test_computes_like_a_plain_layer_that_holds_the_product(name):
    make, shape = LAYERS[name]
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    inner = make()
    wrapper = MaskedLayer(inner)
    wrapper(x)
    dense = {weight.path: weight.variable.numpy() for weight in wrapper.masked_weights}
    masks = random_masks(wrapper)
    wrapper.set_masks(masks)
    plain = type(inner).from_config(inner.get_config())
    plain(x)
    plain.set_weights(inner.get_weights())

    for weight in wrapper.masked_weights:
        np.testing.assert_array_equal(weight.variable.numpy(), np.where(masks[weight.path], dense[weight.path], 0))
    np.testing.assert_array_equal(wrapper(x), plain(x))

    for weight in wrapper.masked_weights:  # what is assigned later to a pruned weight changes nothing
        weight.variable.assign(dense[weight.path])
    np.testing.assert_array_equal(wrapper(x), plain(x))
    assert all(isinstance(v, keras.Variable) for v in inner.weights), "the layer's variables were not put back"


def test_attention_is_masked_by_relative_paths_and_called_by_keyword():
    inner = layers.MultiHeadAttention(2, 3, name="attention")
    wrapper = MaskedLayer(inner, weights=("query/kernel", "value/kernel"))
    rng = np.random.default_rng(0)
    query, value = (rng.normal(size=(2, length, 8)).astype("float32") for length in (5, 4))
    wrapper(query, value=value)
    wrapper.set_masks(random_masks(wrapper))
    plain = layers.MultiHeadAttention(2, 3)
    plain(query, value)
    plain.set_weights(inner.get_weights())
    output, scores = wrapper(query=query, value=value, return_attention_scores=True)
    expected, expected_scores = plain(query, value, return_attention_scores=True)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(scores, expected_scores)
    assert [weight.path for weight in wrapper.masked_weights] == ["query/kernel", "value/kernel"]


@pytest.mark.parametrize("upstream", [1.0, np.inf, np.nan])
def test_gradients_of_pruned_weights_are_zero_whatever_flows_back(upstream, either_keras):
    layer = either_keras.layers.Dense(3, kernel_regularizer=either_keras.regularizers.OrthogonalRegularizer())
    wrapper = wrapper_class(layer)(layer)
    wrapper.build((None, 4))
    mask = np.arange(12).reshape(4, 3) % 3 == 0
    wrapper.set_masks({"kernel": mask})
    kernel = wrapper.layer.kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(np.ones((2, 4), "float32"))) * upstream + sum(wrapper.losses)
    gradient = tape.gradient(loss, kernel.value if either_keras is keras else kernel).numpy()
    assert (gradient[~mask] == 0).all(), gradient
    assert not (gradient[mask] == 0).any(), gradient


def test_keras_masks_and_training_reach_the_layer():
    x = np.array([[[1.0], [2.0], [0.0]]], "float32")
    inputs = keras.Input((3, 1))
    lstm = layers.LSTM(2, name="lstm", dropout=0.5)
    model = keras.Model(inputs, MaskedLayer(lstm)(layers.Masking()(inputs)))
    np.testing.assert_allclose(model(x), lstm(x[:, :2]), rtol=1e-5)
    assert not np.array_equal(model(x, training=True), model(x, training=True)), "dropout gave the same mask twice"
    sequence = MaskedLayer(layers.LSTM(2, return_sequences=True))
    mask = sequence.compute_mask(None, tf.constant([[True, False]]))
    np.testing.assert_array_equal(mask, [[True, False]])


def test_stateful_rnn_keeps_its_state():
    inner = layers.GRU(2, stateful=True)
    wrapper = MaskedLayer(inner)
    x = np.ones((1, 3, 2), "float32")
    assert not np.array_equal(wrapper(x), wrapper(x))


def test_takes_the_name_policy_and_trainability_of_its_layer():
    inner = layers.Dense(2, name="logits", dtype="mixed_bfloat16", trainable=False)
    wrapper = MaskedLayer(inner)
    output = wrapper(np.ones((1, 3)))
    assert (wrapper.name, wrapper.dtype_policy.name, wrapper.trainable) == ("logits", "mixed_bfloat16", False)
    assert output.dtype == tf.bfloat16
    assert inner.kernel.dtype == "float32"
    wrapper.trainable = True
    assert [variable.name for variable in wrapper.trainable_weights] == ["kernel", "bias"]


def test_the_layers_own_configuration_does_not_change():
    inner = layers.Dense(2, kernel_constraint=keras.constraints.MaxNorm(1.5), kernel_regularizer="l2")
    before = inner.get_config()
    MaskedLayer(inner).build((None, 3))
    assert inner.get_config() == before


def test_bad_arguments_are_refused(either_keras):
    dense, masked_layer = either_keras.layers.Dense, wrapper_class(either_keras.layers.Dense(1))
    with pytest.raises(ValueError, match=r"strip_pruning first\. Received: "):
        masked_layer(masked_layer(dense(1)))
    with pytest.raises(TypeError, match="Received: weights='kernel'"):
        masked_layer(dense(1), weights="kernel")
    with pytest.raises(ValueError, match="Received: 'kernels'"):
        masked_layer(dense(1), weights=["kernels"]).build((None, 2))
    with pytest.raises(ValueError, match=r"pruned by default.*Received: layer="):
        masked_layer(either_keras.layers.BatchNormalization()).build((None, 2))
    wrapper = masked_layer(dense(1))
    wrapper.build((None, 2))
    with pytest.raises(ValueError, match=r"Received: \['bias'\]"):
        wrapper.set_masks({"bias": [1]})
