"""Lottery tickets: what the rounds prune, what they rewind, and that a search that was killed goes on."""

import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from force_tf.tickets.find_ticket import kept_counts
from helpers.moving_masks import X, Y, dense_model, flat

KERASES = pytest.mark.parametrize("module", [keras, tf_keras])


def kernels(model):
    return np.concatenate([value.ravel() for value in model.get_weights() if value.ndim == 2])


def plain(network):
    return force_tf.strip_pruning(network)


class Training:
    """A `fit` of some epochs of 8 steps, which remembers what it was given and what it left."""

    def __init__(self, **options):
        self.options = {"epochs": 1, **options}
        self.masks, self.begins, self.ends, self.steps = [], [], [], []

    def __call__(self, network):
        self.masks.append(flat(force_tf.get_masks(network)))
        self.begins.append(plain(network).get_weights())
        history = network.fit(X, Y, 8, shuffle=False, verbose=0, **self.options)
        self.ends.append(plain(network).get_weights())
        self.steps.append(int(network.optimizer.iterations))
        return history


def by_hand(ends, masks, fraction=0.2, least=0):
    """The masks after each round: of the kept weights, all but the ceil(fraction · k) smallest."""
    for weights, mask in zip(ends, masks):
        values = np.abs(np.concatenate([value.ravel() for value in weights if value.ndim == 2]))
        kept = np.flatnonzero(mask)
        go = min(int(np.ceil(fraction * kept.size)), kept.size - least)
        after = mask.copy()
        after[kept[np.argsort(values[kept], kind="stable")[:go]]] = False
        yield after


def test_counts_of_the_worked_example():
    assert kept_counts(10, 0.6, 0.2) == [8, 6, 4]
    assert kept_counts(240, 0.75, 0.2) == [192, 153, 122, 97, 77, 61, 60]
    assert kept_counts(10, 0.5, 0.3) == [7, 5], "0.3 · 10 is 3, also where floats say a little more"


@KERASES
def test_rounds_prune_the_smallest_weights_and_rewind_to_the_start(module):
    model, training = dense_model(module), Training()
    initial = model.get_weights()
    ticket = force_tf.find_ticket(model, training, sparsity=0.4, fraction=0.3, verbose=0)
    after = list(by_hand(training.ends, training.masks, fraction=0.3, least=206))
    assert len(training.masks) == 2
    assert training.masks[0].all()
    for found, expected in zip([*training.masks[1:], flat(ticket.masks)], after):
        np.testing.assert_array_equal(found, expected)
    for mask, begin in zip(training.masks, training.begins):
        parts = np.split(mask, np.cumsum([192, 128])) if mask.size else []
        masked = iter([part.reshape(shape) for part, shape in zip(parts, [(12, 16), (16, 8), (8, 3)])])
        for value, first in zip(begin, initial):
            np.testing.assert_array_equal(value, first * next(masked) if value.ndim == 2 else first)
    assert ticket.masks.metadata["method"] == "lottery_ticket"
    for value, first, now in zip(ticket.weights, initial, model.get_weights()):
        np.testing.assert_array_equal(value, first)
        np.testing.assert_array_equal(now, first), "the user's model was touched"
    assert [row["kept"] for row in ticket.history] == [240, 206]
    assert all(set(row["metrics"]) == {"loss"} and row["steps"] == 8 for row in ticket.history)
    ready = ticket.apply(model)
    assert force_tf.get_masks(ready) == ticket.masks
    np.testing.assert_array_equal(kernels(plain(ready)), kernels(model) * flat(ticket.masks))


@KERASES
def test_rewinding_to_a_step(module):
    model, training = dense_model(module), Training(epochs=2)
    twin = dense_model(module)
    twin.fit(X, Y, 8, epochs=1, shuffle=False, verbose=0)
    expected = twin.get_weights()  # after 8 steps
    ticket = force_tf.find_ticket(model, training, sparsity=0.3, rewind_step=8, verbose=0)
    for value, other in zip(ticket.weights, expected):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-7)
    assert training.steps == [16, 16], "later rounds go from the step of the rewinding to the first round's end"
    assert [row["steps"] for row in ticket.history] == [16, 8]
    np.testing.assert_array_equal(
        np.concatenate([v.ravel() for v in training.begins[1] if v.ndim == 2]),
        np.concatenate([v.ravel() for v in ticket.weights if v.ndim == 2]) * training.masks[1],
    )
    assert int(ticket.apply(model).optimizer.iterations) == 8


def test_rewinding_of_the_learning_rate_alone():
    rates = []

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 / (1.0 + keras.ops.cast(step, "float32"))

        def get_config(self):
            return {}

    def fit(network):
        network.compile(keras.optimizers.SGD(Rate()), network.loss)  # in the user's function
        seen = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: rates.append(float(network.optimizer.learning_rate))
        )
        return training(network, callbacks=[seen])

    def training(network, callbacks):
        inner.options["callbacks"] = callbacks
        return inner(network)

    inner = Training(epochs=2)
    settings = {"rewind_step": 6, "rewind": "learning_rate", "verbose": 0}
    ticket = force_tf.find_ticket(dense_model(keras), fit, sparsity=0.3, **settings)
    np.testing.assert_allclose(rates, [0.1 / (1 + step) for step in [*range(16), *range(6, 16)]], rtol=1e-5)
    last = np.concatenate([value.ravel() for value in inner.ends[0] if value.ndim == 2])
    first = np.concatenate([value.ravel() for value in inner.begins[1] if value.ndim == 2])
    np.testing.assert_array_equal(first, last * inner.masks[1])
    np.testing.assert_array_equal(ticket.weights[0], inner.ends[1][0])


def test_loops_of_train_on_batch_rewind_too():
    def fit(network):
        for step in range(6):
            network.train_on_batch(X[step * 8 : step * 8 + 8], Y[step * 8 : step * 8 + 8])
        return {"accuracy": [0.5, 0.75], "note": "text"}

    model = dense_model(keras)
    twin = dense_model(keras)
    for step in range(3):
        twin.train_on_batch(X[step * 8 : step * 8 + 8], Y[step * 8 : step * 8 + 8])
    ticket = force_tf.find_ticket(model, fit, sparsity=0.2, rewind_step=3, verbose=0)
    np.testing.assert_allclose(ticket.weights[0], twin.get_weights()[0], rtol=1e-6, atol=1e-7)
    assert ticket.history[0]["metrics"] == {"accuracy": 0.75}


@KERASES
def test_of_steps_that_run_at_once_the_last_one_counts(module):
    model, training, twin = dense_model(module), Training(epochs=2), dense_model(module)
    for each in (model, twin):
        each.compile("adam", each.loss, steps_per_execution=4)
    twin.fit(X[:32], Y[:32], 8, shuffle=False, verbose=0)
    ticket = force_tf.find_ticket(model, training, sparsity=0.3, rewind_step=3, verbose=0)
    np.testing.assert_allclose(ticket.weights[0], twin.get_weights()[0], rtol=1e-6, atol=1e-7)
    assert ticket.rewind_step == 4
    assert training.steps == [16, 16], "the rounds after the first begin at step 4, and end where it ended"
    assert [row["steps"] for row in ticket.history] == [16, 12]


@KERASES
def test_a_fit_that_compiles_the_model_between_two_trainings(module):
    steps = []

    def fit(network):
        for epochs in (1, 2):  # of 8 steps
            network.compile(module.optimizers.SGD(0.1), network.loss)
            network.fit(X, Y, 8, epochs=epochs, verbose=0)
            steps.append(int(network.optimizer.iterations))

    settings = {"sparsity": 0.3, "verbose": 0}
    ticket = force_tf.find_ticket(dense_model(module), fit, rewind_step=3, **settings)
    # The second round trains 8 steps from step 3 on, then the rest of 24 by an optimizer of its own.
    assert steps == [8, 16, 11, 13]
    assert [row["steps"] for row in ticket.history] == [24, 21]
    for rewind in ("weights", "learning_rate"):
        with pytest.raises(ValueError, match=r"rewind_step=10 steps.*before it compiles.* Received: 8 steps"):
            force_tf.find_ticket(dense_model(module), fit, rewind_step=10, rewind=rewind, **settings)


def test_layers_that_fit_freezes_are_pruned_too():
    def fit(network):
        network.get_layer("a").trainable = False
        network.compile("sgd", network.loss)
        network.fit(X, Y, 8, epochs=1, verbose=0)

    model = dense_model(keras)
    ticket = force_tf.find_ticket(model, fit, sparsity=0.2, scope="layer", verbose=0)
    initial = np.abs(model.get_layer("a").kernel.numpy())  # which no training has changed
    cut = np.sort(initial, axis=None)[initial.size // 5 - 1]
    np.testing.assert_array_equal(ticket.masks["a/kernel"], initial > cut)


@pytest.mark.parametrize(
    ("outcome", "metrics"),
    [
        ({"loss": tf.constant(0.5), "bad": tf.constant("text"), "all": [1, np.array(2)]}, {"loss": 0.5, "all": 2.0}),
        (tf.constant(0.25, tf.bfloat16), {"result": 0.25}),
        (np.float64(0.25), {"result": 0.25}),
        ([0.5, 0.75], {}),
        (True, {}),
        (None, {}),
    ],
    ids=str,
)
def test_what_fit_returns(outcome, metrics):
    def fit(network):
        network.train_on_batch(X[:8], Y[:8])
        return outcome

    ticket = force_tf.find_ticket(dense_model(keras), fit, sparsity=0.1, verbose=0)
    assert ticket.history[0]["metrics"] == metrics


def test_batch_statistics_rewind_too():
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ticket = force_tf.find_ticket(model, Training(), sparsity=0.3, verbose=0)
    for value, first in zip(ticket.apply(model).layers[1].get_weights(), (1, 0, 0, 1)):
        np.testing.assert_array_equal(value, np.full(8, first))


def test_each_layer_prunes_its_own_part_and_keeps_its_floor():
    ticket = force_tf.find_ticket(
        dense_model(keras),
        Training(),
        sparsity=0.75,
        fraction=0.5,
        scope="layer",
        min_per_layer=8,
        layers=["a", "c"],
        verbose=0,
    )
    assert {path: int(mask.sum()) for path, mask in ticket.masks.items()} == {"a/kernel": 46, "c/kernel": 8}
    assert ticket.masks.left_out == {"b/kernel": "not selected by `layers`"}


def test_a_layer_that_empties_is_named_in_its_round():
    def fit(network):
        network.set_weights([value * 1.01 for value in network.get_weights()])
        kernel = network.get_layer("b").layer.kernel
        kernel.assign(kernel * 1e-6)
        return 1.0

    with pytest.warns(force_tf.LayerCollapseWarning, match=r"by round 1: no weight is left of b/kernel; the network's"):
        ticket = force_tf.find_ticket(dense_model(keras), fit, sparsity=0.6, fraction=0.4, verbose=0)
    assert ticket.history[-1]["metrics"] == {"result": 1.0}


KILLED = """
import os, signal, sys
import numpy as np
sys.path[:0] = [{tests!r}]
from helpers.moving_masks import X, Y, dense_model
import keras, force_tf

rounds = 0

def fit(network):
    global rounds
    rounds += 1
    if rounds == {last}:
        os.kill(os.getpid(), signal.SIGKILL)
    return network.fit(X, Y, 8, epochs=1, shuffle=False, verbose=0)

ticket = force_tf.find_ticket(dense_model(keras), fit, sparsity=0.4, rewind_step=3, checkpoint={folder!r}, verbose=0)
"""


def test_a_search_that_is_killed_goes_on_and_ends_alike(tmp_path):
    tests = str(pathlib.Path(__file__).resolve().parents[1])
    code = KILLED.format(tests=tests, folder=str(tmp_path), last=2)
    root = pathlib.Path(tests).parent
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=root)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()[-2000:]
    assert [file.name for file in tmp_path.iterdir()] == ["ticket.npz"]

    def find(training, **settings):
        settings = {"sparsity": 0.4, "rewind_step": 3, "checkpoint": tmp_path, "verbose": 0, **settings}
        return force_tf.find_ticket(dense_model(keras), training, **settings)

    with pytest.raises(ValueError, match=r"another fraction: 0.3, where it was 0.2"):
        find(Training(), fraction=0.3)
    rest, whole = Training(), Training()
    ticket, other = find(rest), find(whole, checkpoint=None)
    assert (len(rest.masks), len(whole.masks)) == (2, 3), "the first round was done"
    assert ticket.masks == other.masks
    for value, expected in zip(ticket.weights, other.weights):
        np.testing.assert_array_equal(value, expected)
    assert [row["kept"] for row in ticket.history] == [row["kept"] for row in other.history]
    again = Training()
    assert find(again).masks == ticket.masks
    assert not again.masks, "a finished search trains no more"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0.0}, r"`sparsity` to be above 0 and below 1. Received: sparsity=0.0"),
        ({"fraction": 0.0}, r"`fraction` to be above 0"),
        ({"rewind_step": -1}, "rewind_step"),
        ({"rewind": "weight"}, r"rewind.*weights"),
        ({"scope": "all"}, "scope"),
        ({"fit": None}, r"Expected `fit` to be a function"),
        ({"model": force_tf.apply_masks(dense_model(keras))}, r"Expected a model without masks"),
        ({"min_per_layer": 200, "sparsity": 0.9}, "min_per_layer"),
        ({"layers": ["nothing"]}, "nothing"),
        ({"fit": lambda network: None}, r"left all weights as they were in round 1"),
        ({"rewind_step": 40, "fit": Training()}, r"more than rewind_step=40 steps.*Received: 8 steps"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    arguments = {"model": dense_model(keras), "fit": Training(), "sparsity": 0.2, "verbose": 0, **settings}
    fit = arguments["fit"]
    with pytest.raises((ValueError, TypeError), match=message):
        force_tf.find_ticket(arguments.pop("model"), arguments.pop("fit"), **arguments)
    assert not getattr(fit, "masks", None) or "rewind_step" in settings, "something was trained before"


def test_a_model_that_cannot_be_copied_is_refused():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(X)
    with pytest.raises(ValueError, match="Expected a Functional or Sequential model"):
        force_tf.find_ticket(model, Training(), sparsity=0.5)


def test_an_interrupted_round_leaves_the_model_and_its_methods_alone():
    model = dense_model(keras)
    initial, given = model.get_weights(), []

    def fit(network):
        given.append(network)
        network.fit(X, Y, 8, epochs=1, verbose=0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        force_tf.find_ticket(model, fit, sparsity=0.5, rewind_step=2, verbose=0)
    for value, first in zip(model.get_weights(), initial):
        np.testing.assert_array_equal(value, first)
    assert not {"fit", "train_on_batch"} & vars(given[0]).keys()
