"""Scores that are exactly zero, and what a search says of them."""

import warnings

import keras
import numpy as np
import pytest
import tf_keras

import force_tf

X = np.random.default_rng(0).standard_normal((64, 8)).astype("float32")
Y = np.arange(64) % 3


def network(library, head="zeros"):
    layers = [library.layers.Dense(16, "relu", name="body"), library.layers.Dense(3, name="head")]
    model = library.Sequential([library.Input((8,)), *layers])
    library.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(weight.shape) for weight in model.get_weights()]
    if head == "zeros":
        weights[2] = np.zeros((16, 3))
    model.set_weights(weights)
    return model


def loss_of(library):
    return library.losses.SparseCategoricalCrossentropy(from_logits=True)


def caught_by(search):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search()
    assert {each.category for each in caught} <= {force_tf.ZeroScoresWarning}
    return caught


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize(("method", "steps"), [("snip", 1), ("iter_snip", 3), ("force", 3)])
def test_a_zero_head_is_said_once(library, method, steps):
    # With a head of zeros no gradient reaches the body, and the head's own scores are |0 · gradient|.
    pruner = force_tf.PruneAtInit(method, 0.8, steps=steps, seed=0)
    caught = caught_by(lambda: pruner.find_masks(network(library), (X, Y), loss_of(library), verbose=0))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert "body/kernel" in message
    assert "head/kernel" in message
    assert "by its index" in message
    assert "Even without pruning the network's output does not depend on its input." in message
    assert "layers=" in message


@pytest.mark.parametrize("method", ["snip", "iter_snip", "force", "synflow", "magnitude", "random"])
def test_a_network_with_scores_is_not_warned_of(method):
    pruner = force_tf.PruneAtInit(method, 0.5, seed=0)
    assert not caught_by(lambda: pruner.find_masks(network(keras, head="normal"), (X, Y), loss_of(keras), verbose=0))


def test_magnitudes_of_zero_weights():
    with pytest.warns(force_tf.ZeroScoresWarning, match=r"^All scores of head/kernel \(keeps 0 of 48\)") as caught:
        force_tf.PruneAtInit("magnitude", 0.8).prune(network(keras), (X, Y), verbose=0)
    assert len(caught) == 1
    assert "by its index" not in str(caught[0].message), "the body has 128 weights that are not zero"
    assert caught[0].filename == __file__


class Given(force_tf.criteria.Criterion):
    """Scores the first `nonzero` weights of every tensor one, the rest zero."""

    needs_data = False

    def __init__(self, nonzero):
        self.nonzero = nonzero

    def scores(self, network):
        return [
            (np.arange(weight.size) < self.nonzero).astype("float32").reshape(weight.shape)
            for weight in network.weights
        ]


@pytest.mark.parametrize(("nonzero", "warns"), [(43, True), (44, False)])
def test_fewer_scores_than_weights_to_keep(nonzero, warns):
    # Half of 128 + 48 weights are kept: 88, twice 44.
    pruner = force_tf.PruneAtInit(Given(nonzero), 0.5)
    caught = caught_by(lambda: pruner.find_masks(network(keras, head="normal"), verbose=0))
    assert [str(each.message).startswith("Fewer scores") for each in caught] == [True] * warns


def test_zeros_inside_channels_decide_nothing():
    # Every input but the first is black: seven of eight weights of each channel score zero.
    x = X * (np.arange(8) == 0)
    pruner = force_tf.PruneAtInit("snip", 0.3, granularity="channel", seed=0)
    assert not caught_by(lambda: pruner.find_masks(network(keras, head="normal"), (x, Y), loss_of(keras), verbose=0))


def test_a_dense_search_prunes_nothing_and_says_nothing():
    pruner = force_tf.PruneAtInit("snip", 0.0, seed=0)
    assert not caught_by(lambda: pruner.find_masks(network(keras), (X, Y), loss_of(keras), verbose=0))


def test_a_teacher_that_is_part_of_the_model():
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = network(keras, head="normal"), network(keras, head="normal")
            self.student.name, self.teacher.name = "student", "teacher"

        def call(self, x):
            return self.student(x)

    def search(trainable):
        model = Distiller()
        model(X)
        model.teacher.trainable = trainable
        return force_tf.PruneAtInit("snip", 0.8, seed=0).find_masks(model, (X, Y), loss_of(keras), verbose=0)

    with pytest.warns(
        force_tf.ZeroScoresWarning, match=r"teacher/body/kernel .*teacher/head/kernel .*trainable = False"
    ):
        search(trainable=True)
    assert not any(path.startswith("teacher") for path in search(trainable=False)), "what the message advises"
