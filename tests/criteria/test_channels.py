"""Scores of whole channels, against the worked example of the paper's equations and against finite differences."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from force_tf.criteria import SNAP, Skeletonization
from force_tf.granularity.channels import CoupledChannels

KERASES = pytest.mark.parametrize("module", [keras, tf_keras])


@pytest.fixture
def scored(monkeypatch):
    """The scores that cuts of channels were made by, one array per cut, without that of what must stay."""
    found, sums = [], CoupledChannels._sums

    def watched(self, weights, scores):
        found.append(sums(self, weights, scores))
        return found[-1]

    monkeypatch.setattr(CoupledChannels, "_sums", watched)
    return lambda: [each[1:] for each in found]


def example(module, activation="sigmoid"):
    """Two units of outputs 0.8 and 0.3, read with the weights 1 and -4."""
    module.backend.set_floatx("float32")
    model = module.Sequential(
        [
            module.Input((2,)),
            module.layers.Dense(2, use_bias=False, name="hidden"),
            module.layers.Dense(1, activation, use_bias=False, name="out"),
        ]
    )
    model.set_weights([np.eye(2), np.array([[1.0], [-4.0]])])
    return model


X, T = np.array([[0.8, 0.3]], "float32"), np.array([[1.0]], "float32")


def prune(model, criterion, loss, data=(X, T), sparsity=0.5, **settings):
    pruner = force_tf.PruneAtInit(criterion, sparsity, granularity="channel", **settings)
    return pruner.find_masks(model, data, loss, verbose=0)


@KERASES
def test_the_worked_example(module, scored):
    masks = prune(example(module), Skeletonization(), "mean_squared_error")
    np.testing.assert_allclose(scored()[0], [0.038442, -0.057663], atol=1e-6)  # a fifth of 0.192209, -0.288313
    np.testing.assert_array_equal(masks["hidden/kernel"], [[True, False], [True, False]])  # the second one hurts
    masks = prune(example(module), Skeletonization(absolute=True), "mean_squared_error")
    np.testing.assert_array_equal(masks["hidden/kernel"], [[False, True], [False, True]])


def test_the_moving_average_goes_on_from_batch_to_batch_and_step_to_step(scored):
    data = [(X, T), (2 * X, T), (X, T)]
    loss = keras.losses.MeanSquaredError()
    prune(example(keras), Skeletonization(), loss, data, batches=2, steps=2, schedule=[1.0, 0.5])
    outputs = [1 / (1 + np.exp(-s * (0.8 - 1.2))) for s in (1, 2)]
    once, twice = (s * np.array([0.8, -1.2]) * o * (1 - o) for s, o in zip((1, 2), outputs))
    first = 0.8 * (0.2 * once) + 0.2 * twice
    np.testing.assert_allclose(scored()[0], first, rtol=1e-5)
    np.testing.assert_allclose(scored()[1], 0.8 * (0.8 * first + 0.2 * once) + 0.2 * once, rtol=1e-5)


@pytest.mark.parametrize("kind", ["class numbers of logits", "binary logits"])
def test_errors_are_those_of_probabilities(kind, scored):
    if kind == "binary logits":
        model, data = example(keras, None), (X, T)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        expected = [0.038442, -0.057663]
    else:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(3)])
        kernels = np.eye(2), np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 3.0]])
        model.set_weights([kernels[0], np.zeros(2), kernels[1], np.zeros(3)])
        data, loss = (X, np.array([2])), keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def error(gates):
            logits = (X[0] * gates) @ kernels[1]
            o = np.exp(logits) / np.exp(logits).sum()
            return np.abs(np.eye(3)[2] - o).sum()

        expected = [-0.2 * (error(1 + 1e-4 * e) - error(1 - 1e-4 * e)) / 2e-4 for e in np.eye(2)]
    prune(model, Skeletonization(), loss, data)
    np.testing.assert_allclose(scored()[0], expected, atol=1e-5)


@KERASES
def test_snap_is_the_gate_before_the_activation(module, scored):
    """|Σ_in θ·∂L/∂θ + b·∂L/∂b|, as SNAP-it computes it, of a convolution and a dense layer with ReLU."""
    rng = np.random.default_rng(0)
    layers = module.layers
    model = module.Sequential(
        [
            module.Input((5, 5, 2)),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(4, "relu", name="dense"),
            layers.Dense(3, name="out"),
        ]
    )
    model.set_weights([rng.normal(size=value.shape) * 0.3 for value in model.get_weights()])
    x, y = rng.normal(size=(16, 5, 5, 2)).astype("float32"), rng.integers(0, 3, 16)
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    prune(model, SNAP(), loss, (x, y), batches=1, seed=0)
    with tf.GradientTape() as tape:
        value = loss(y, model(x))
    gradients = [
        np.asarray(g)
        for g in tape.gradient(value, [v.value if module is keras else v for v in model.trainable_variables])
    ]
    products = [w * g for w, g in zip(model.get_weights(), gradients)]
    expected = [np.abs(products[i].sum(tuple(range(products[i].ndim - 1))) + products[i + 1]) for i in (0, 2)]
    np.testing.assert_allclose(scored()[0], np.concatenate(expected), rtol=1e-3, atol=1e-6)


def test_one_channel_in_each_step():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)]
    )
    pruner = force_tf.PruneAtInit("magnitude", 0.7, steps=6, schedule="one_by_one", granularity="channel")
    pruner.find_masks(model, verbose=0)
    kept = [64, *(row["kept"] for row in pruner.history)]
    weights = {4 + 5, 6 + 2}  # of a unit of the first and second layer, fewer where others are gone
    drops = [before - after for before, after in itertools.pairwise(kept)]
    assert drops[0] in weights
    assert all(0 < drop <= 9 for drop in drops[:-1]), drops
    assert kept[-1] <= 19, "the last step prunes what is still in excess"


@pytest.mark.parametrize(
    ("criterion", "settings", "message"),
    [
        (SNAP(), {"granularity": "weight"}, r'granularity="channel" for a criterion that scores whole channels'),
        (SNAP(), {"granularity": (1, 2)}, r"Received: granularity=\(1, 2\)"),
        ("magnitude", {"schedule": "one_by_one"}, r'granularity="channel" and revive=False for schedule="one_by_one"'),
    ],
)
def test_settings_that_do_not_go_together(criterion, settings, message):
    with pytest.raises(ValueError, match=message):
        force_tf.PruneAtInit(criterion, 0.5, **settings).find_masks(example(keras), (X, T), "mse", verbose=0)


def test_wrong_arguments():
    with pytest.raises(
        ValueError, match=r"targets of the shape of the outputs.*Received: targets of shape \(None, 2\)"
    ):
        prune(example(keras), Skeletonization(), lambda t, o: tf.reduce_sum(t) * o, (X, np.ones((1, 2), "float32")))
