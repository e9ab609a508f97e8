"""Data, losses and criteria that do not fit: one sentence, before any work, of what was expected and what came."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from helpers.reference import mlp
from helpers.refusal import LOSS, X, Y, assert_one_sentence, refuse

CATEGORICAL = keras.losses.CategoricalCrossentropy(from_logits=True)
BATCHES = [(X[:8], Y[:8]), (X[8:16], Y[8:16]), (X[16:], Y[16:])]

# The data and the loss.


@pytest.mark.parametrize(
    "loss",
    [None, "crossentropy", 3, [LOSS, "mse"], {"head": "mse"}],
    ids=["none_and_not_compiled", "unknown_name", "no_callable", "too_many", "unknown_output"],
)
def test_losses_that_do_not_fit(loss):
    refuse((ValueError, TypeError), "", loss=loss)


def test_a_compiled_model_without_a_loss():
    model = mlp()
    model.compile("sgd")
    refuse(ValueError, "a loss: compile the model with one, or pass `loss=`", "loss=None", model=model, loss=None)


def test_a_loss_that_returns_nothing():
    def forgetful(y_true, y_pred):
        keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    refuse(TypeError, "a loss that returns a tensor", "None from .*forgetful", loss=forgetful)


def test_no_data_for_a_method_that_needs_it():
    refuse(ValueError, "`data`: the method 'snip' scores a loss", "data=None", data=None)


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda: iter(()),
        lambda: dataset(X, Y).batch(8).take(0),
        lambda: (X[:0], Y[:0]),
        lambda: [(X[:0], Y[:0])],
    ],
    ids=["list", "iterator", "dataset", "arrays", "batch"],
)
def test_empty_data(make):
    refuse(ValueError, "at least one (batch of data|row)", data=make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: [X],
        lambda: [(X,)],
        lambda: [(X, None)],
        lambda: (X, None),
        lambda: dataset(X).batch(8),
        lambda: iter([X, X]),
    ],
    ids=["list", "tuples", "none", "arrays", "dataset", "iterator"],
)
def test_batches_without_targets(make):
    refuse(ValueError, "the loss needs targets", data=make())


@pytest.mark.parametrize(
    ("data", "error", "expected"),
    [
        (X, TypeError, "data as a batched"),
        (tf.constant(X), TypeError, "data as a batched"),
        ("digits", TypeError, "data as a batched"),
        ({"x": X, "y": Y}, TypeError, "data as a batched"),
        (3, TypeError, "data as a batched"),
        ((X,), ValueError, "put batches into a list"),
        ((X, Y, Y, Y), ValueError, "put batches into a list"),
        ((X, 3), TypeError, "arrays"),
        ((X, Y[:5]), ValueError, "as many rows as each other"),
        ([(X.astype(object), Y)], TypeError, "hold numbers"),
        ([(X, Y.astype(str))], TypeError, "targets that are numbers"),
        ([(X.astype(str), Y)], ValueError, "fit the model"),
        ([(X, Y, np.ones(5))], ValueError, "sample weights that fit"),
        ([(X, Y[:5])], ValueError, "fit the model, the loss and each other"),
    ],
    ids=str,
)
def test_data_of_another_form(data, error, expected):
    refuse(error, expected, data=data)


@pytest.mark.parametrize(
    ("data", "received"),
    [(dataset(X, Y), r"shape \(4,\)"), ([(X[:, :3], Y)], r"shape \(24, 3\)"), ([(X[None], Y)], r"shape \(1, 24, 4\)")],
    ids=["not_batched", "too_narrow", "one_axis_too_many"],
)
def test_inputs_of_the_wrong_shape(data, received):
    refuse(ValueError, r"inputs of shape \(None, 4\), the batch size first", received, data=data)


ONE_HOT = np.eye(3)[Y]


@pytest.mark.parametrize(
    ("targets", "loss", "received"),
    [
        (ONE_HOT, LOSS, r"\(None, 3\)"),
        (Y, CATEGORICAL, r"\(None,\)"),
        (np.eye(4)[Y], CATEGORICAL, r"\(None, 4\)"),
        (Y, "mse", r"\(None,\)"),
        (Y[:, None].astype(float), "mae", r"\(None, 1\)"),  # NumPy would broadcast it
        ((Y, Y), LOSS, r"\('\*', '\*'\)"),
    ],
)
def test_targets_of_the_wrong_shape(targets, loss, received):
    refuse(ValueError, "targets", received, data=[(X, targets)], loss=loss)


@pytest.mark.parametrize(
    ("targets", "loss", "received"),
    [
        (Y + 1, LOSS, "1 to 3"),
        (Y - 1, LOSS, "-1 to 1"),
        (2 * ONE_HOT, CATEGORICAL, "0.0 to 2.0"),
        (-ONE_HOT, CATEGORICAL, "-1.0 to"),
        (np.full((24, 3), np.nan), "mse", "nan to nan"),
        (np.where(ONE_HOT == 1, np.inf, 0), "mse", "0.0 to inf"),
    ],
)
def test_targets_out_of_range(targets, loss, received):
    refuse(ValueError, "targets that are", received, data=[(X, targets)], loss=loss)


def test_targets_of_a_later_batch_are_checked_too():
    refuse(ValueError, "class indices from 0 to 2", "5 to 5", data=[*BATCHES[:2], (X[:2], np.array([5, 5]))], batches=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(value):
    refuse(ValueError, "a finite loss", "(nan|inf)", data=[(np.full_like(X, value), Y)])


@pytest.mark.parametrize(
    ("criterion", "advice"),
    [
        (force_tf.criteria.EarlyTicket(learning_rate=1e30), "learning_rate=1e+29"),
        (force_tf.criteria.ProsPr(inner_learning_rate=1e30), "inner_learning_rate=1e+29"),
    ],
)
def test_training_inside_the_search_that_diverges(criterion, advice):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    rows = np.ones((8, 4), "float32")
    options = {"method": criterion, "model": model, "loss": "mse"}
    expected = rf"does not diverge: lower its learning rate, such as {re.escape(advice)}\."
    refuse(ValueError, expected, "learning_rate=1e.30, and", data=[(rows, rows[:, :2])] * 5, **options)
    # Before the first step it is not the rate.
    refuse(ValueError, "a finite loss", "nan", data=[(rows * np.nan, rows[:, :2])] * 5, **options)


def test_a_gradient_that_is_not_finite_names_the_weight():
    @tf.custom_gradient
    def broken(x):
        return x, lambda upstream: upstream * np.nan

    def loss(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, broken(y_pred), from_logits=True)

    refuse(ValueError, "a finite gradient", "24 of 24 .* 'dense_0/kernel'", loss=loss)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": None},
        {"loss": CATEGORICAL},
        {"sparsity": 0.999},
        {"layers": "conv"},
        {"min_per_layer": 15},
        {"model": keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])},
    ],
    ids=["no loss", "targets", "sparsity", "layers", "floor", "no weights"],
)
def test_nothing_is_drawn_beyond_the_first_batch(options):
    drawn = []
    generator = (drawn.append(batch) or batch for batch in BATCHES)
    refuse(ValueError, "", data=generator, **options)
    assert len(drawn) <= 1


# Criteria of the user's own.


class Own(force_tf.criteria.Criterion):
    needs_data = False

    def __init__(self, scores):
        self._scores = scores

    def scores(self, network):
        return self._scores(network.weights)


@pytest.mark.parametrize(
    ("scores", "error", "expected", "received"),
    [
        (lambda weights: None, TypeError, "the criterion to return", "None"),
        (lambda weights: [tf.zeros(weights[0].shape)], ValueError, "each of the 2 weights", "fewer"),
        (
            lambda weights: [tf.zeros(w.shape) for w in [*weights, *weights]],
            ValueError,
            "each of the 2 weights",
            "more",
        ),
        (lambda weights: [tf.zeros(3) for _ in weights], ValueError, r"shape \(4, 6\) for 'dense_0/kernel'", r"\(3,\)"),
        (lambda weights: [tf.fill(w.shape, np.nan) for w in weights], ValueError, "without NaN", "24 NaN for 'dense_0"),
    ],
    ids=["none", "fewer", "more", "shape", "nan"],
)
def test_scores_that_do_not_fit(scores, error, expected, received):
    refuse(error, expected, received, method=Own(scores))


@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")
def test_infinite_scores_of_both_signs_are_welcome():
    def scores(weights):
        return [np.resize([np.inf, -np.inf, 0.0], w.shape) for w in weights]

    masks = force_tf.PruneAtInit(Own(scores), sparsity=0.5).find_masks(mlp(), verbose=0)
    expected = np.resize([True, False, False], 42)
    expected[[2, 5, 8, 11, 14, 17, 20]] = True  # 14 are +inf; of the zeros the first 7 make it 21
    np.testing.assert_array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)


@pytest.mark.parametrize(
    ("criterion", "options"),
    [
        (force_tf.criteria.GraSP, {"temperature": 0}),
        (force_tf.criteria.GraSP, {"temperature": math.nan}),
        (force_tf.criteria.ProsPr, {"inner_steps": 0}),
        (force_tf.criteria.ProsPr, {"inner_learning_rate": -1}),
        (force_tf.criteria.ProsPr, {"momentum": 1.0}),
    ],
)
def test_options_of_criteria_out_of_range(criterion, options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked below)
        criterion(**options)
    ((name, value),) = options.items()
    assert_one_sentence(caught.value, "", f"{name}={value!r}")
