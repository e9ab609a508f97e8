"""PX, held against a network of two layers written out in NumPy, and against other forms of the same network."""

import keras
import numpy as np
import pytest
import tf_keras

import force_tf

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")


def model_of(either_keras):
    layers = either_keras.layers
    model = either_keras.Sequential(
        [
            either_keras.Input((3,)),
            layers.Dense(6, "relu", name="first"),
            layers.Dense(4, "relu", name="second"),
            layers.Dense(2, "softmax", name="head"),
        ]
    )
    random = np.random.default_rng(3)
    for layer in model.layers:
        layer.set_weights([random.normal(size=value.shape) for value in layer.get_weights()])
    return model


def expected_masks(weights, batches, counts):
    kernels, biases = weights[::2], weights[1::2]
    masks = [np.ones_like(kernel) for kernel in kernels]
    data = iter(batches)
    for count in counts:
        total = [np.zeros_like(kernel) for kernel in kernels]
        for x in (next(data), next(data)):
            # The network itself: which units are positive.
            first = x @ (kernels[0] * masks[0]) + biases[0]
            second = np.maximum(first, 0) @ (kernels[1] * masks[1]) + biases[1]
            # All weights one: how the data come through to each output.
            opened = (((x**2 @ masks[0]) * (first > 0)) @ masks[1] * (second > 0)) @ masks[2]
            c = opened.sum(axis=0)
            # Squared weights, without activations, for an input of ones: R = c · z and its derivatives.
            squares = [(kernel * mask) ** 2 for kernel, mask in zip(kernels, masks)]
            low = squares[0].sum(axis=0) + biases[0] ** 2
            high = low @ squares[1] + biases[1] ** 2
            back = squares[2] @ c
            gradients = [
                np.ones((3, 1)) * (squares[1] @ back),
                np.outer(low, back),
                np.outer(high, c),
            ]
            total = [sum_ + gradient**2 for sum_, gradient in zip(total, gradients)]
        scores = np.concatenate(
            [((kernel * mask) ** 2 * part).ravel() for kernel, mask, part in zip(kernels, masks, total)]
        )
        keep = np.zeros(scores.size)
        keep[np.argsort(-scores, kind="stable")[:count]] = 1
        masks = [part.reshape(kernel.shape) for part, kernel in zip(np.split(keep, [18, 42]), kernels)]
    return [mask.astype(bool) for mask in masks]


def test_masks_are_those_of_the_definition(either_keras):
    model = model_of(either_keras)
    before = model.get_weights()
    batches = [np.random.default_rng(seed).normal(size=(8, 3)).astype("float32") for seed in range(6)]
    for counts in ([34], [40, 31, 25]):
        pruner = force_tf.PruneAtInit("px", sparsity=1 - counts[-1] / 50, steps=len(counts))
        masks = pruner.find_masks(model, list(batches), verbose=0)
        assert [row["kept"] for row in pruner.history] == counts
        expected = expected_masks([value.astype("float64") for value in before], batches, counts)
        for path, mask in zip(("first/kernel", "second/kernel", "head/kernel"), expected, strict=True):
            np.testing.assert_array_equal(masks[path], mask, err_msg=path)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def convnet(module, form):
    """A residual network: its ReLUs inside layers, as layers of their own, or in a model inside."""
    layers = module.layers
    inputs = module.Input((8, 8, 3))
    fused = {"activation": "relu"} if form == "fused" else {}
    x = layers.Conv2D(4, 3, padding="same", name="stem", **fused)(inputs)
    if form != "fused":
        relu = layers.ReLU()
        x = relu(x) if form == "layers" else module.Sequential([relu], name="inside")(x)
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", use_bias=False, name="inner")(x))
    x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.MaxPooling2D(2)(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.ReLU(max_value=6)(x)
    x = layers.Flatten()(layers.Dropout(0.3)(x))
    x = layers.Dense(3, name="head")(x)
    outputs = layers.Softmax()(x) if form == "layers" else layers.Activation("softmax")(x)
    return module.Model(inputs, outputs)


def test_the_form_of_a_network_does_not_matter():
    x = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")
    first = convnet(keras, "fused")
    random = np.random.default_rng(1)
    values = [np.abs(v) if v.ndim < 2 else random.normal(size=v.shape) for v in first.get_weights()]
    found = []
    for module, form in ((keras, "fused"), (keras, "layers"), (keras, "nested"), (tf_keras, "fused")):
        model = convnet(module, form)
        model.set_weights(values)
        pruner = force_tf.PruneAtInit("px", sparsity=0.8, steps=4, seed=0)
        found.append(pruner.find_masks(model, x, batch_size=8, verbose=0))
    assert all(masks == found[0] for masks in found[1:])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def two_inputs():
    inputs = [keras.Input((2,)), keras.Input((2,))]
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(inputs)))


def network_of(*layers):
    return lambda: keras.Sequential([keras.Input((4, 2)), *layers])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Subclassed, "a Functional or Sequential model: .*'subclassed"),
        (two_inputs, "one input, whose paths can be told. Received: .* with 2"),
        (network_of(keras.layers.LSTM(3)), "whose paths can be told. .*'lstm.*' of class LSTM"),
        (network_of(keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)), "of class Dense with the activation 'tanh'"),
        (network_of(keras.layers.Dense(3, "softmax"), keras.layers.Dense(2)), "Dense with the activation 'softmax'"),
        (network_of(keras.layers.LayerNormalization(), keras.layers.Dense(2)), "of class LayerNormalization"),
    ],
)
def test_what_it_cannot_follow_is_refused_before_any_work(build, message):
    model = build()
    data = [np.zeros((4, 2), "float32")] * 2 if build is two_inputs else np.zeros((4, 4, 2), "float32")
    if build is two_inputs:
        data = (tuple(data),)
    if build is Subclassed:
        data = np.zeros((4, 2), "float32")
        model(data)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"^Expected .*{message}"):
        force_tf.PruneAtInit("px", sparsity=0.5).find_masks(model, data, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_defaults_are_those_of_the_authors():
    pruner = force_tf.PruneAtInit("px")
    assert (pruner.steps, pruner.batches, pruner.revive, pruner.schedule) == (100, 2, False, "exponential")
    with pytest.raises(ValueError, match=r"'px' needs inputs. Received: data=None"):
        pruner.find_masks(model_of(keras))
