"""Models of every form that is copied to be wrapped, of either Keras, and what the tests of them share."""

import functools

import numpy as np
import tensorflow as tf

from force_tf.layers import apply_masks, get_masks, is_pruned, strip_pruning
from force_tf.models.keras_models import keras_of
from helpers.subclassed_models import masks_for, variables_by_path
from helpers.training_forms import assert_pruned


@functools.cache
def block_class(keras):
    layers = keras.layers

    class Block(layers.Layer):
        """A layer of layers without names and without a `build`, and not registered."""

        def __init__(self, units=4, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.first, self.second = layers.Dense(units, activation="relu"), layers.Dense(units)

        def call(self, inputs):
            return inputs + self.second(self.first(inputs))

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return Block


def relu(keras):
    """Returns an operation that may stand between layers."""
    return keras.ops.relu if hasattr(keras, "ops") else tf.nn.relu


def sequential(keras):
    layers = keras.layers
    stack = [layers.Conv2D(3, 3, name="conv"), layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((5, 5, 1)), *stack, layers.Dense(2, name="logits")], name="net")


def sequential_without_input(keras):
    model = keras.Sequential([keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    model.build((None, 4))
    return model


def nested(keras):
    layers = keras.layers
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, layers.Dense(4, name="conv1")(inner_inputs), name="backbone")
    deep = keras.Sequential([keras.Input((4,)), inner, layers.Dense(4, name="conv1")], name="deep")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="conv1")(relu(keras)(deep(inputs)) + 1.0))


def shared(keras):
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    tower = keras.layers.Dense(4, name="tower")
    merged = keras.layers.Concatenate()([tower(left), tower(right)])
    return keras.Model([left, right], keras.layers.Dense(1, name="head")(merged))


def dictionaries(keras):
    layers = keras.layers
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    x = relu(keras)(layers.Concatenate()([inputs["a"], inputs["b"]]))
    return keras.Model(inputs, {"y": layers.Dense(2, name="y")(x), "z": layers.Dense(1, name="z")(x)})


def sequences(keras):
    layers = keras.layers
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x, training=False)
    x = layers.TimeDistributed(layers.Dense(3, name="dense"), name="each")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x))


def attention(keras):  # whose weights are made in its first call
    inputs = keras.Input((4, 3))
    x = keras.layers.MultiHeadAttention(1, 2, name="attention")(inputs, value=inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def two():
    return 2.0


def raised_tanh(x):
    return tf.tanh(x) + 1.0


def custom_layers(keras):
    # Only tf_keras loads a lambda together with what its module defines.
    double = (lambda t: two() * t) if keras.__name__ == "tf_keras" else (lambda t: 2.0 * t)
    inputs = keras.Input((4,))
    x = block_class(keras)(name="block")(inputs)
    x = keras.layers.Dense(4, activation=raised_tanh, name="dense")(x)
    return keras.Model(inputs, keras.layers.Lambda(double)(x))


FORMS = [sequential, sequential_without_input, nested, shared, dictionaries, sequences, custom_layers]


def inputs_for(model):
    rng = np.random.default_rng(0)

    def batch(tensor):
        shape = (3, *tensor.shape[1:])
        is_integer = tf.as_dtype(tensor.dtype).is_integer
        return rng.integers(0, 7, shape) if is_integer else rng.normal(size=shape).astype("float32")

    is_sequential = isinstance(model, keras_of(model).Sequential)  # which has no `input` if it was built by a shape
    return tf.nest.map_structure(batch, model.inputs[0] if is_sequential else model.input)


def with_product(model, masks):
    """Puts θ⊙m into a plain model, by hand."""
    for path, variable in variables_by_path(model).items():
        if path in masks:
            variable.assign(variable.numpy() * masks[path])
    return model


def assert_same(actual, expected):
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


def assert_holds_zeros(model, masks, where):
    assert_pruned({path: variable.numpy() for path, variable in variables_by_path(model).items()}, masks, where)


def layer_names(model):
    return [layer.name for layer in model.layers]


def check_apply_read_and_strip(model):
    """Wraps a copy of a model and strips it again, and checks each of the three against the other two."""
    masks, x = masks_for(model), inputs_for(model)
    before = [variable.numpy() for variable in model.variables]
    pruned = apply_masks(model, masks)
    plain = strip_pruning(pruned)

    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=f"{variable.name} of the original has changed")
    assert not {id(v) for v in pruned.variables} & {id(v) for v in [*model.variables, *plain.variables]}
    assert list(get_masks(pruned)) == list(masks), "paths or their order differ"
    assert get_masks(pruned) == masks
    assert (is_pruned(model), is_pruned(pruned), is_pruned(plain)) == (False, True, False)
    for copy in (pruned, plain):
        assert (copy.name, layer_names(copy)) == (model.name, layer_names(model))
        assert getattr(copy, "output_names", None) == getattr(model, "output_names", None)
        assert type(copy) is type(model)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
    assert [v.shape for v in plain.variables] == [v.shape for v in model.variables]
    expected = with_product(model, masks)(x)
    assert_same(pruned(x), expected)
    assert_same(plain(x), expected)
    assert_holds_zeros(pruned, masks, "after wrapping")
