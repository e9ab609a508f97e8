"""A batch in parts, one after another, gives the masks of the whole batch, or is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from helpers.golden_cases import build, load, pruner_for

X = np.random.default_rng(0).normal(size=(5, 3))
T = np.random.default_rng(1).normal(size=(5, 2))
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0, 0.1])


class Recorder(force_tf.criteria.Criterion):
    """Keeps the gradient that a search scores."""

    def scores(self, network):
        self.gradient = network.mean_gradient()
        return [tf.abs(tensor) for tensor in self.gradient]


def linear(module=keras, *more):
    """Returns a float64 model of a matrix of 3 × 2, which more layers may follow."""
    layer = module.layers.Dense(2, use_bias=False, dtype="float64", name="linear")
    return module.Sequential([module.Input((3,), dtype="float64"), layer, *more])


@pytest.mark.parametrize(
    "tag", ["force:d=0.05,T=10,B=1,ties", "grasp:d=0.1,T=1,B=2", "prospr:d=0.05,M=3,lr=0.1,momentum=0,full"]
)
def test_equals_official_masks_of_whole_batches(either_keras, tag):
    _, batches, _, golden = load("lenet")
    loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    masks = pruner_for(tag).find_masks(build(either_keras, "lenet"), batches, loss, micro_batch_size=7, verbose=0)
    assert {path: int(np.sum(masks[path] != mask)) for path, mask in golden[tag].items()} == dict.fromkeys(masks, 0)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 100])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_gradients_by_hand(either_keras, size, reduction):
    model, recorder = linear(either_keras), Recorder()
    pruner = force_tf.PruneAtInit(recorder, sparsity=0.5, batches=2)
    loss = either_keras.losses.MeanSquaredError(reduction=reduction)
    data = [(X, T, WEIGHTS), (X[:2], T[:2], WEIGHTS[:2])]
    pruner.find_masks(model, data, loss, micro_batch_size=size, verbose=0)
    kernel = np.asarray(model.layers[-1].kernel)
    by_hand = [x.T @ (w[:, None] * (x @ kernel - t)) / (len(x) if "over" in reduction else 1) for x, t, w in data]
    np.testing.assert_allclose(recorder.gradient[0], sum(by_hand) / 2, rtol=1e-12)


def test_no_more_rows_are_computed_at_once(either_keras):
    sizes = []

    def loss(y_true, y_pred):
        tf.py_function(lambda target: sizes.append(len(target)), [y_true], [])
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    force_tf.PruneAtInit("snip", 0.5).find_masks(linear(either_keras), [(X, T)], loss, micro_batch_size=2, verbose=0)
    assert sizes == [2, 2, 1]


class Adding(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(tf.reduce_mean(tf.square(inputs)))
        return inputs


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean(tf.square(y - y_pred))


def own_loss():
    plain = linear()
    model = OwnLoss(plain.inputs[0], plain.outputs[0])
    model.compile("sgd", "mse")
    return model


def masked():
    layers = [keras.Input((4, 3)), keras.layers.Masking(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    return model


def fixed():
    return keras.Sequential([keras.Input((3,), batch_size=5), keras.layers.Dense(2)])


def adding():
    model = linear(keras, Adding(dtype="float64"))
    model.compile("sgd", "mse")
    return model


def mean(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))


@pytest.mark.parametrize(
    ("make", "data", "loss", "method", "reason"),
    [
        (linear, None, None, "synflow", "'synflow' scores no loss of batches"),
        (linear, [X], None, "px", "'px' scores no loss of batches"),
        (fixed, (X, T), "mse", "snip", "fixes the size of its batches"),
        (linear, (X, T), mean, "snip", "a loss that reduces its rows itself need not add up"),
        (adding, (X, T), None, "snip", "what layers add by `add_loss` need not add up"),
        (own_loss, (X, T), None, "grasp", "what a model computes by a `compute_loss` of its own need not add up"),
        (
            masked,
            (np.ones((5, 4, 3), "float32"), np.ones((5, 4, 2), "float32")),
            None,
            "prospr",
            "a loss that divides by sample weights or masks need not add up",
        ),
    ],
    ids=["no data", "no loss", "fixed size", "mean", "add_loss", "compute_loss", "masks"],
)
def test_what_need_not_add_up_is_refused(make, data, loss, method, reason):
    pruner = force_tf.PruneAtInit(method, sparsity=0.5)
    with pytest.raises(ValueError, match=f"Expected micro_batch_size=None, .*{reason}.* Received: .*micro_batch_size"):
        pruner.find_masks(make(), data, loss, micro_batch_size=2, verbose=0)
    assert pruner.history == []


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError), ("2", TypeError)])
def test_other_sizes_are_refused(size, error):
    with pytest.raises(error, match="micro_batch_size"):
        force_tf.PruneAtInit("snip", 0.5).find_masks(linear(), (X, T), "mse", micro_batch_size=size, verbose=0)
