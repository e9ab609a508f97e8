"""What is known of a layer: of Keras's own by their classes, of a user's by what it changes or was registered as."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.cost.flops import count_layers
from force_tf.models import layer_kinds


@pytest.fixture(autouse=True)
def _registrations(monkeypatch):
    monkeypatch.setattr(layer_kinds, "_REGISTERED", {})


def own_dense(either_keras, **attributes):
    """Returns a subclass of Dense with the given attributes and methods."""
    return type("OwnDense", (either_keras.layers.Dense,), attributes)


def own_call(layer, inputs):
    """Computes what a dense layer does, in words of its own."""
    return layer.activation(tf.einsum("bi,io->bo", inputs, tf.convert_to_tensor(layer.kernel)) + layer.bias)


def two_layers(either_keras, first, width=6):
    layers = [either_keras.Input((width,)), first, either_keras.layers.Dense(3, name="head")]
    return either_keras.Sequential(layers)


def with_dead_units(model, count):
    """Makes the last outputs of the first layer zero."""
    layer = model.layers[0]
    kernel, bias = np.array(layer.kernel), np.array(layer.bias)
    kernel[:, -count:], bias[-count:] = 0, 0
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    return model


def test_a_subclass_that_changes_nothing_is_the_layer_of_keras(either_keras):
    model = with_dead_units(two_layers(either_keras, own_dense(either_keras)(5, activation="relu", name="own")), 2)
    assert force_tf.count_flops(model) == 6 * 5 + 5 * 3
    smaller = force_tf.shrink(model)
    assert smaller.layers[0].units == 3
    data = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(smaller(data), model(data), atol=1e-6)


def test_a_subclass_with_a_call_of_its_own_is_neither_counted_nor_cut(either_keras):
    layer = own_dense(either_keras, call=own_call)(5, activation="relu", name="own")
    model = with_dead_units(two_layers(either_keras, layer), 2)
    assert count_layers(model).unknown == {"own": "OwnDense"}
    with pytest.warns(UserWarning, match=r"own \(OwnDense\).*register_layer"):
        assert force_tf.count_flops(model) == 5 * 3
    with pytest.warns(UserWarning, match="Every channel.*is needed"):
        assert force_tf.shrink(model).layers[0].units == 5
    # Its kernel is pruned all the same.
    assert "own/kernel" in force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, verbose=0)


def test_a_convolution_with_another_operation_is_not_counted(either_keras):
    method = "convolution_op"
    convolution = type("Own", (either_keras.layers.Conv2D,), {method: lambda layer, inputs, kernel: inputs})
    layer = convolution(3, 1, use_bias=False, name="own")
    model = either_keras.Sequential([either_keras.Input((4, 4, 3)), layer])
    assert count_layers(model).unknown == {"own": "Own"}


def test_what_a_layer_is_like_is_counted_and_cut(either_keras):
    own = own_dense(either_keras, call=own_call)
    force_tf.register_layer(own, like=either_keras.layers.Dense)
    model = with_dead_units(two_layers(either_keras, own(5, activation="relu", name="own")), 2)
    assert force_tf.count_flops(model) == 6 * 5 + 5 * 3
    smaller = force_tf.shrink(model)
    assert smaller.layers[0].units == 3
    assert type(smaller.layers[0]) is own
    data = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(smaller(data), model(data), atol=1e-6)


def scaled(either_keras):
    """Returns a layer of the user's that scales each channel, and squares the result."""

    class Scaled(either_keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")
            self.built = True

        def call(self, inputs):
            return tf.square(inputs * tf.convert_to_tensor(self.scale))

    return Scaled


def test_channels_of_an_elementwise_layer_are_cut_and_its_constants_are_told(either_keras):
    own = scaled(either_keras)
    layers = [either_keras.Input((6,)), either_keras.layers.Dense(5, name="first"), own(name="own")]
    model = either_keras.Sequential([*layers, either_keras.layers.Dense(3, name="head")])
    with_dead_units(model, 2)
    model.layers[0].bias.assign([0.0, 0.0, 0.0, 2.0, -3.0])  # two channels that are constant, and not zero
    model.layers[1].scale.assign([1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.warns(UserWarning, match="Every channel.*is needed"):
        force_tf.shrink(model)
    force_tf.register_layer(own, channels="elementwise", multiply_adds=lambda layer, inputs, outputs: 0)
    smaller = force_tf.shrink(model)
    assert smaller.layers[0].units == 3
    np.testing.assert_array_equal(smaller.layers[1].scale, [1.0, 2.0, 3.0])
    data = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(smaller(data), model(data), rtol=1e-5)
    assert force_tf.count_flops(model) == 6 * 5 + 5 * 3


def test_channels_pass_through_a_pooling_of_the_users_own(either_keras):
    class Halved(either_keras.layers.Layer):
        def call(self, inputs):
            return inputs[:, ::2]

    layers = either_keras.layers
    inputs = either_keras.Input((8, 2))
    x = Halved(name="own")(layers.Conv1D(4, 3, name="conv")(inputs))
    model = either_keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))
    kernel = np.array(model.get_layer("conv").kernel)
    kernel[..., 1] = 0
    model.get_layer("conv").kernel.assign(kernel)
    force_tf.register_layer(Halved, channels="passing")
    smaller = force_tf.shrink(model)
    assert smaller.get_layer("conv").filters == 3
    data = np.random.default_rng(0).normal(size=(4, 8, 2)).astype("float32")
    np.testing.assert_allclose(smaller(data), model(data), atol=1e-6)


def test_a_rule_of_the_users_own(either_keras):
    """A layer that reverses its channels, of which no behaviour with a name is true."""

    class Reversed(either_keras.layers.Layer):
        def call(self, inputs):
            return inputs[..., ::-1]

    class ReversedRule(force_tf.channels.ChannelRule):
        known = True

        def ties(self):
            own = force_tf.channels.labels(self.input_shapes[0][-1])
            return [own], [own[::-1]]

        def constants(self, inputs):
            return [inputs[0][::-1]]

    layers = [either_keras.layers.Dense(5, name="first"), Reversed(name="own")]
    model = either_keras.Sequential([either_keras.Input((6,)), *layers, either_keras.layers.Dense(3)])
    with_dead_units(model, 2)
    force_tf.register_layer(Reversed, channels=ReversedRule)
    smaller = force_tf.shrink(model)
    assert smaller.layers[0].units == 3
    data = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(smaller(data), model(data), atol=1e-6)


def matrix_layer(either_keras):
    class Matrix(either_keras.layers.Layer):
        def build(self, input_shape):
            self.matrix = self.add_weight(shape=(8, input_shape[-1]), name="matrix")  # outputs first
            self.table = self.add_weight(shape=(input_shape[-1], 2), name="table")
            self.built = True

        def call(self, inputs):
            return tf.matmul(inputs, tf.convert_to_tensor(self.matrix), transpose_b=True)

    return Matrix


def test_multiply_adds_of_a_custom_layer_follow_its_masks(either_keras):
    own = matrix_layer(either_keras)
    uses = {"multiply_adds": lambda layer, inputs, outputs: {"matrix": math.prod(inputs[0][:-1])}}
    force_tf.register_layer(own, prunable=["matrix"], opt_in="table", output_axes={"matrix": -2}, **uses)
    model = either_keras.Sequential([either_keras.Input((7, 4)), own(name="own")])
    assert force_tf.count_flops(model) == 7 * 8 * 4
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.75).find_masks(model, verbose=0)
    assert list(masks) == ["own/matrix"]
    assert force_tf.count_flops(model, masks) == 7 * 8
    selected = force_tf.PruneAtInit("magnitude", sparsity=0.5, layers="own").find_masks(model, verbose=0)
    assert list(selected) == ["own/matrix", "own/table"]


def test_a_pattern_runs_along_the_inputs_of_a_custom_layer():
    own = matrix_layer(keras)
    force_tf.register_layer(own, prunable=["matrix"], output_axes={"matrix": (-2,)})
    model = keras.Sequential([keras.Input((4,)), own(name="own")])
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.5, granularity="2:4").find_masks(model, verbose=0)
    assert masks["own/matrix"].sum(axis=1).tolist() == [2] * 8


def test_what_is_said_later_adds_to_what_was_said():
    own = matrix_layer(keras)
    force_tf.register_prunable(own, "matrix")
    force_tf.register_layer(own, multiply_adds=lambda layer, inputs, outputs: 5)
    model = keras.Sequential([keras.Input((4,)), own(name="own")])
    assert force_tf.count_flops(model) == 5
    assert list(force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, verbose=0)) == ["own/matrix"]


def test_a_count_that_names_no_weight_is_refused():
    own = matrix_layer(keras)
    force_tf.register_layer(own, multiply_adds=lambda layer, inputs, outputs: {"kernel": 1})
    model = keras.Sequential([keras.Input((4,)), own(name="own")])
    with pytest.raises(ValueError, match=r"^Expected multiply_adds.*Received: .*kernel.*'own' of class Matrix"):
        force_tf.count_flops(model)


class Plain(keras.layers.Layer):
    pass


@pytest.mark.parametrize(
    ("layer_class", "arguments", "error"),
    [
        (object, {"prunable": ["kernel"]}, TypeError),
        (Plain, {}, ValueError),
        (Plain, {"like": Plain}, TypeError),
        (Plain, {"like": "Dense"}, TypeError),
        (Plain, {"prunable": []}, ValueError),
        (Plain, {"opt_in": [3]}, TypeError),
        (Plain, {"output_axes": ["kernel"]}, TypeError),
        (Plain, {"output_axes": {"kernel": 1}}, ValueError),
        (Plain, {"multiply_adds": 12}, TypeError),
        (Plain, {"channels": "all"}, ValueError),
        (Plain, {"channels": Plain}, TypeError),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else getattr(value, "__name__", None),
)
def test_refuses_what_tells_nothing_of_a_layer(layer_class, arguments, error):
    with pytest.raises(error, match=r"^Expected .*Received: "):
        force_tf.register_layer(layer_class, **arguments)
    assert layer_kinds._REGISTERED == {}
