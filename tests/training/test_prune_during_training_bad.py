"""What `PruneDuringTraining` refuses, in one sentence and before a step is made."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.callbacks import PruneDuringTraining, Swap
from helpers.moving_masks import X, Y, dense_model, fit, sparse_model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "gpm"}, ValueError, r"Did you mean 'gmp'\? Received: method='gpm'"),
        ({"method": 3}, TypeError, r"to be a name or a force_tf.criteria.Criterion. Received: method=3"),
        ({"sparsity": 1.0}, ValueError, r"`sparsity`, the part to remove, .* Received: sparsity=1.0"),
        ({"begin": 10, "end": 10}, ValueError, r"`end` to be after `begin`. Received: begin=10, end=10"),
        ({"begin": 0.8}, ValueError, r"`end` to be after `begin`. Received: begin=0.8, end=0.75"),
        ({"end": 1.5}, ValueError, r"`end` to be a whole number, or a part .* Received: end=1.5"),
        ({"end": float("nan")}, ValueError, r"Received: end=nan"),
        ({"begin": -1}, ValueError, r"`begin` to be a step from 0 on. Received: begin=-1"),
        ({"begin": "now"}, TypeError, r"`begin` to be a step .* Received: begin='now'"),
        ({"every": 0}, ValueError, r"`every` to be at least one step. Received: every=0"),
        ({"every": True}, TypeError, r"Received: every=True"),
        (
            {"method": "rigl"},
            ValueError,
            r"`data`, such as data=\(x, y\): .*'rigl' takes gradients",
        ),
        ({"method": force_tf.criteria.SNIP()}, ValueError, r"`data`, .* 'SNIP' takes gradients"),
        ({"method": "set", "scope": "erk"}, ValueError, r"no use for scope. Received: scope='erk'"),
        ({"method": "set", "min_per_layer": 2}, ValueError, r"no use for min_per_layer. Received: min_per_layer=2"),
        ({"min_per_layer": -1}, ValueError, r"Received: min_per_layer=-1"),
        ({"scope": "glob"}, ValueError, r"Did you mean 'global'\? Received: scope='glob'"),
        ({"schedule": "qubic"}, ValueError, r"Did you mean 'cubic'\?"),
        ({"swap": 0.3}, TypeError, r"`swap` to be a force_tf.callbacks.Swap. Received: swap=0.3"),
        (
            {"swap": Swap(0.3, "random"), "granularity": "2:4"},
            ValueError,
            r'granularity="weight" for a method that swaps',
        ),
        ({"scope": "erk", "granularity": "channel"}, ValueError, r'scope="global" or "layer" for whole channels'),
        (
            {"initial_sparsity": 0.95},
            ValueError,
            r"`initial_sparsity` to be at most .* Received: 0.95 and 0.9",
        ),
        ({"batches": 0}, ValueError, r"Received: batches=0"),
        ({"seed": -1}, ValueError, r"Received: seed=-1"),
    ],
)
def test_bad_settings(arguments, error, message):
    with pytest.raises(error, match=f"^Expected .*{message}"):
        PruneDuringTraining(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 1.5}, r"`fraction` to be a number in \[0, 1\]. Received: fraction=1.5"),
        ({"grow": "gradients"}, r"Did you mean 'gradient'\?"),
        ({"anneal": "cos"}, r"Received: anneal='cos'"),
        ({"last": 0}, r"`last` to be at least one step"),
    ],
)
def test_bad_swaps(arguments, message):
    with pytest.raises(ValueError, match=f"^Expected .*{message}"):
        Swap(**arguments)


def refuses(model, message, *callbacks, error=ValueError, **arguments):
    before = [np.array(weight) for weight in model.get_weights()]
    with pytest.raises(error, match=f"^Expected .*{message}"):
        fit(model, *callbacks, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_models_without_masks(either_keras):
    refuses(dense_model(either_keras), r"`pruned = force_tf.apply_masks\(model\)`", PruneDuringTraining())


@pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated")
def test_masks_of_tfmot():
    import tf_keras

    import tensorflow_model_optimization as tfmot  # isort: skip

    model = tfmot.sparsity.keras.prune_low_magnitude(dense_model(tf_keras))
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = [PruneDuringTraining(), tfmot.sparsity.keras.UpdatePruningStep()]
    refuses(model, "masks of `force_tf.apply_masks`; those of tensorflow-model-optimization are", *callbacks)


def test_masks_that_are_too_sparse_or_too_dense(either_keras):
    sparse = sparse_model(either_keras, sparsity=0.7)
    refuses(sparse, "a sparsity of at least 0.7006, .*lets no pruned weight return", PruneDuringTraining("gmp", 0.5))
    for method in ("rigl", "set"):
        for sparsity in (0.6, 0.95):
            pruning = PruneDuringTraining(method, sparsity, data=(X, Y))
            refuses(sparse, f"masks of a sparsity of {sparsity}, which '{method}' keeps; .*Received: .*0.7006", pruning)
    refuses(force_tf.apply_masks(dense_model(either_keras)), "masks of a sparsity", PruneDuringTraining("set", 0.5))


def test_two_at_once(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    message = r"one PruneDuringTraining in a training. Received: .*'gmp'.* and .*'granet'"
    both = [PruneDuringTraining("gmp", 0.5), PruneDuringTraining("granet", 0.6, data=(X, Y))]
    refuses(pruned, message, *both)
    fit(pruned, both[0], epochs=2)  # what failed leaves nothing behind
    fit(pruned, both[1], epochs=2, initial_epoch=1)
    refuses(pruned, r"Received: .*'gmp'.* and .*'gmp'", both[0], both[0])


def test_a_fit_that_failed_before_it_began_is_forgotten(either_keras):
    pruned, first = force_tf.apply_masks(dense_model(either_keras)), PruneDuringTraining("gmp", 0.5)

    class Fails(either_keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise RuntimeError("no such server")

    for callbacks in ([Fails(), first], [first, Fails()]):
        with pytest.raises(RuntimeError, match="no such server"):
            fit(pruned, *callbacks)
        fit(pruned, PruneDuringTraining("gmp", 0.5), epochs=1)


def test_a_list_of_callbacks_that_knows_no_length(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    known, unknown = PruneDuringTraining("gmp", 0.5, end=8), PruneDuringTraining("gmp", 0.5)
    make = functools.partial(either_keras.callbacks.CallbackList, add_history=True, model=pruned)
    pruned.fit(X, Y, 8, verbose=0, callbacks=make([known]))
    assert force_tf.get_masks(pruned).sparsity == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="the length of this training is not known"):
        pruned.fit(X, Y, 8, verbose=0, callbacks=make([unknown]))


def test_times_that_do_not_fit(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))  # 4 epochs of 8 steps
    refuses(
        pruned,
        r"`every` short enough for 1 of it .* 24 steps apart. Received: every=100",
        PruneDuringTraining(every=100),
    )
    refuses(pruned, r"`end` to be after `begin`. Received: begin=30, end=0.75", PruneDuringTraining(begin=30))
    listed = PruneDuringTraining("gmp", 0.5, schedule=[0.9, 0.7, 0.5], every=10)
    refuses(pruned, r"`every` short enough for 3 of it", listed)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_a_length_that_nobody_knows(either_keras):
    def batches():
        while True:
            yield X[:8], Y[:8]

    pruned = force_tf.apply_masks(dense_model(either_keras))
    if either_keras is keras:
        # Keras counts the batches of an epoch as it goes.
        endless = (batch for _, batch in zip(range(8), batches()))
        with pytest.raises(
            ValueError, match=r"^Expected `end` as a whole number, .*`steps_per_epoch`.* Received: end=0.75"
        ):
            pruned.fit(endless, epochs=1, verbose=0, callbacks=[PruneDuringTraining()])
    with pytest.raises(ValueError, match=r"^Expected `end` as a whole number, .*`steps` to `start`"):
        PruneDuringTraining().start(pruned)
    pruning = PruneDuringTraining("gmp", 0.5, end=8, every=4)
    pruned.fit(batches(), steps_per_epoch=8, epochs=1, verbose=0, callbacks=[pruning])
    assert force_tf.get_masks(pruned).kept == 172


def test_data_and_losses_that_do_not_fit(either_keras):
    pruned = sparse_model(either_keras)
    wrong = PruneDuringTraining("rigl", 0.8, data=(X[:, :5], Y))
    refuses(pruned, r"batches of inputs of shape \(None, 12\)", wrong)
    refuses(pruned, r"Received: 0 to 7", PruneDuringTraining("rigl", 0.8, data=(X, np.arange(64) % 8)))


def test_optimizers_whose_state_cannot_be_reached(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras, either_keras.optimizers.Adafactor()))
    refuses(pruned, r"an optimizer that remembers each weight by itself.* Received: Adafactor", PruneDuringTraining())


def test_an_optimizer_that_hides_its_state_from_keras():
    class Hiding(keras.optimizers.SGD):  # in tf_keras such lists are found
        def build(self, variables):
            super().build(variables)
            self.hidden = [tf.Variable(tf.zeros(each.shape)) for each in variables]

    pruned = force_tf.apply_masks(dense_model(keras, Hiding()))
    refuses(pruned, r"an optimizer that remembers each weight by itself.* Received: Hiding", PruneDuringTraining())


def test_frozen_models(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    pruned.trainable = False
    pruned.compile("sgd", pruned.loss)
    refuses(pruned, "masks on at least one weight that trains", PruneDuringTraining())


def test_by_hand_in_the_wrong_order(either_keras):
    with pytest.raises(RuntimeError, match=r"^Expected `start\(model\)` before the first step"):
        PruneDuringTraining().after_step()


@pytest.mark.parametrize("method", ["gmp", "rigl", "set"])
def test_a_training_that_diverged_is_told_at_the_next_update(method):
    optimizer = keras.optimizers.SGD(1e30)
    model = force_tf.apply_masks(dense_model(keras, optimizer)) if method == "gmp" else sparse_model(keras, optimizer)
    pruning = PruneDuringTraining(method, 0.8, data=(X, Y), begin=0, end=6, every=3)
    with pytest.raises(ValueError, match=r"diverged\. Lower the learning rate.* infinities or NaN in 'a/kernel' at"):
        fit(model, pruning)
