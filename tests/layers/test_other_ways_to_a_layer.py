"""Layers that a model calls otherwise than by an attribute: wrapped there too, or refused with nothing changed."""

import collections
import dataclasses
import functools
import types
import weakref
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from force_tf.layers import apply_masks, get_masks, is_pruned, strip_pruning
from force_tf.models.keras_models import tf_variable
from helpers.subclassed_models import X, Y, assert_zeros, built, masks_for, output_by_hand

PARAMETERS = {"units": 4}  # what a global of a model may be as well


@dataclasses.dataclass(frozen=True)
class Frozen:
    layer: Any
    number: int = 3


class Slotted:
    __slots__ = ("empty", "layer")

    def __init__(self, layer):
        self.layer = layer

    def apply(self, inputs):
        return self.layer(inputs)


class Plain:
    def __init__(self, layer):
        self.layer = layer
        self.me = self  # a cycle

    def __call__(self, inputs):
        return self.layer(inputs)


class OfTensorFlow(tf.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def __call__(self, inputs):
        return self.layer(inputs)


def closure(dense):
    return lambda inputs: tf.identity(dense(inputs))


def default(dense):
    def function(inputs, layer=dense):
        return layer(inputs)

    return function


def keyword_default(dense):
    def function(inputs, *, layer=dense):
        return layer(inputs)

    return function


WAYS = {
    "a partial": (lambda dense: functools.partial(dense), lambda way, x: way(x)),
    "a partial of keywords": (lambda d: functools.partial(lambda x, layer: layer(x), layer=d), lambda way, x: way(x)),
    "a method": (lambda dense: dense.__call__, lambda way, x: way(x)),
    "its call": (lambda dense: dense.call, lambda way, x: way(x)),
    "a closure": (closure, lambda way, x: way(x)),
    "a default": (default, lambda way, x: way(x)),
    "a default by keyword": (keyword_default, lambda way, x: way(x)),
    "a frozen dataclass": (Frozen, lambda way, x: way.layer(x)),
    "an object with slots": (Slotted, lambda way, x: way.layer(x)),
    "an object": (Plain, lambda way, x: way(x)),
    "a method of an object": (lambda dense: Slotted(dense).apply, lambda way, x: way(x)),
    "an object of TensorFlow's": (OfTensorFlow, lambda way, x: way(x)),
    "a namespace": (lambda dense: types.SimpleNamespace(layer=dense), lambda way, x: way.layer(x)),
    "a deque": (lambda dense: collections.deque([dense]), lambda way, x: way[0](x)),
    "the keys of a dict": (lambda dense: {dense: 1}, lambda way, x: next(iter(way))(x)),
    "a traced function": (lambda dense: tf.function(dense), lambda way, x: way(x)),
    "a traced closure": (lambda dense: tf.function(closure(dense)), lambda way, x: way(x)),
    "all at once": (
        lambda d: [Frozen({"a": (functools.partial(closure(d)),)})],
        lambda way, x: way[0].layer["a"][0](x),
    ),
}


def model_class(module, make, call):
    class Otherwise(module.Model):
        def __init__(self):
            super().__init__()
            self.dense = module.layers.Dense(PARAMETERS["units"], name="dense")
            self.dense.build((None, 4))  # else not all of these ways would
            self.way = make(self.dense)

        def call(self, inputs):
            return call(self.way, inputs)

    return Otherwise


def gradient_at(kernel, mask, model):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(X) ** 2)
    return tape.gradient(loss, tf_variable(kernel)).numpy()[~mask]


@pytest.mark.parametrize("name", WAYS)
def test_layers_are_wrapped_there_and_come_back(name, either_keras):
    make, call = WAYS[name]
    model = built(model_class(either_keras, make, call))
    masks, dense, before = masks_for(model), model.dense, type(model.way)
    (mask,) = masks.values()
    expected = output_by_hand(model, masks)
    kernel = dense.kernel
    assert apply_masks(model, masks) is model
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    assert not gradient_at(kernel, mask, model).any()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert_zeros(model, masks)
    strip_pruning(model)
    assert model.dense is dense
    assert type(model.way) is before
    assert gradient_at(kernel, mask, model).any(), "the model still calls the wrapper"


def test_lambdas_in_a_model_that_is_wrapped_in_place(either_keras):
    class WithLambda(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = either_keras.layers.Dense(4, name="dense")
            self.dense.build((None, 4))
            self.function = either_keras.layers.Lambda(closure(self.dense))

        def call(self, inputs):
            return self.function(inputs) + self.dense(inputs)

    model = built(WithLambda)
    masks, kernel = masks_for(model), model.dense.kernel
    apply_masks(model, masks)
    assert not gradient_at(kernel, masks["dense/kernel"], model).any()
    strip_pruning(model)
    assert gradient_at(kernel, masks["dense/kernel"], model).any()


GLOBALS = {}


def by_a_global(module):
    class ByAGlobal(module.Model):
        def __init__(self):
            super().__init__()
            self.dense = module.layers.Dense(4, name="dense")
            GLOBALS["layer"] = self.dense

        def call(self, inputs):
            return self.helper(inputs)

        def helper(self, inputs):
            return GLOBALS["layer"](inputs)

    return ByAGlobal


def by_a_class(module):
    class ByAClass(module.Model):
        def __init__(self):
            super().__init__()
            self.dense = type(self).shared = module.layers.Dense(4, name="dense")

        def call(self, inputs):
            return type(self).shared(inputs)

    return ByAClass


def by_a_closure_of_the_class(module):
    dense = module.layers.Dense(4, name="dense")

    class ByAClosure(module.Model):
        def __init__(self):
            super().__init__()
            self.dense = dense

        def call(self, inputs):
            return dense(inputs)

    return ByAClosure


def by_a_method_of_its_own(module):
    class Tied(module.layers.Layer):
        def build(self, input_shape):
            self.matrix = self.add_weight(shape=(4, 4), name="matrix")

        def call(self, inputs):
            return tf.matmul(inputs, tf.convert_to_tensor(self.matrix))

        def back(self, inputs):
            return tf.matmul(inputs, tf.convert_to_tensor(self.matrix), transpose_b=True)

        def get_prunable_weights(self):
            return [self.matrix] if self.built else []

    class ByAMethod(module.Model):
        def __init__(self):
            super().__init__()
            self.dense = Tied(name="dense")
            self.back = self.dense.back
            self.count = self.dense.count_params  # only asks

        def call(self, inputs):
            return self.back(self.dense(inputs))

    return ByAMethod


REFUSED = {
    by_a_global: r"call's global GLOBALS\['layer'\]|helper's global GLOBALS\['layer'\]",
    by_a_class: "shared",
    by_a_closure_of_the_class: "call's 'dense'",
    by_a_method_of_its_own: r"back\.__self__",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_cannot_be_replaced_is_named_and_nothing_has_changed(make, either_keras):
    model_of = make(either_keras)
    model = built(model_of)
    masks, before, output = masks_for(model), [id(layer) for layer in model._flatten_layers()], model(X).numpy()
    variable = model.dense.weights[0]
    variable_class, names = type(variable), set(vars(model))
    message = (
        rf"^Expected the layers with masks .*Received: ({REFUSED[make]}) in .*{model_of.__name__}.* layer 'dense'$"
    )
    with pytest.raises(ValueError, match=message):
        apply_masks(model, masks)
    assert type(model) is model_of
    assert not is_pruned(model)
    assert [id(layer) for layer in model._flatten_layers()] == before
    assert type(variable) is variable_class
    assert set(vars(model)) == names
    np.testing.assert_array_equal(model(X), output)


def test_what_only_makes_or_asks_the_layers_is_not_refused(either_keras):
    dense = either_keras.layers.Dense(4, name="dense")

    class Made(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = dense
            self.ask = self.dense.count_params
            self.reference = weakref.ref(dense)
            self.names = {dense.name: "a"}

        def call(self, inputs):
            return self.dense(inputs)

        def report(self):
            return dense.name

    model = built(Made)
    masks = masks_for(model)
    apply_masks(model, masks)
    assert get_masks(model) == masks
