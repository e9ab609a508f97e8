"""GReg: penalties grow as in the authors' traces, pull weights to zero, and take them at the end."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.callbacks import Penalty, PruneDuringTraining
from helpers.golden_training import data, flat, steps, traced_network
from helpers.moving_masks import X, Y, dense_model, fit, keras_3_first, masked_weights, raw

TRACED = Penalty(step=0.01, ceiling=0.05)
TRACED_2 = Penalty(step=0.01, ceiling=0.05, pick_ceiling=0.02, pick_step=0.004, recover=-0.004)


@pytest.mark.parametrize(
    ("name", "penalty", "updates", "choice"),
    [("greg1_weight", TRACED, 6, 0), ("greg1_filter", TRACED, 6, 0), ("greg2_filter", TRACED_2, 9, 4)],
)
def test_penalties_are_those_of_the_authors(name, penalty, updates, choice):
    growth = penalty.growth(100)
    assert (growth.updates, growth.choice) == (updates, choice)
    for iteration, traced in enumerate(steps(name)["penalties"]):
        found = growth.penalties(iteration // 2)
        np.testing.assert_allclose(sorted(set(np.round(traced, 12))), sorted(set(np.round(found, 12))))


def test_the_authors_training_end_to_end(all_float64):
    rows = steps("greg1_weight")
    pruned = force_tf.apply_masks(
        traced_network(all_float64, rows, 5e-4, all_float64.optimizers.SGD(0.01, momentum=0.9))
    )
    pruning = PruneDuringTraining("greg", 0.5, end=14, every=2, penalty=TRACED)
    found = []
    note = all_float64.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: found.append(flat(pruned)))
    x, y = data()
    pruned.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=[note, pruning])
    np.testing.assert_allclose(found[:14], rows["weights"][1:], rtol=0, atol=1e-7)  # of the 32 bits of momenta
    assert [row["density"] for row in pruning.history] == [1.0] * 7 + [0.5]
    np.testing.assert_array_equal(flat(pruned) != 0, rows["penalties"][-1] == 0)  # those that were not penalized stay


def four_weights(module, values):
    """Returns a model of four weights, all of whose gradients are zero."""
    model = module.Sequential([module.Input((4,)), module.layers.Dense(1, use_bias=False, name="d")])
    model.get_layer("d").set_weights([np.reshape(values, (4, 1))])
    model.compile(module.optimizers.SGD(0.1), lambda y, output: 0 * output)
    return force_tf.apply_masks(model)


def trained_by_hand(model, pruning, count):
    pruning.start(model)
    found = []
    for _ in range(count):
        loss = model.train_on_batch(np.eye(4), np.zeros((4, 1)))
        found.append(raw(model.get_layer("d").layer.kernel).ravel())
        pruning.after_step()
    assert float(loss) == 0  # penalties do not show in it
    return np.array(found)


def test_the_example_by_hand(either_keras):
    model = four_weights(either_keras, [2, 1, 1, -2])
    pruning = PruneDuringTraining("greg", 0.5, end=6, every=2, penalty=Penalty(step=0.5, ceiling=1.2))
    found = trained_by_hand(model, pruning, 6)
    expected = [0.95, 0.9025, 0.81225, 0.731025, 0.621371, 0.528166]
    np.testing.assert_allclose(found[:, [1, 2]], np.repeat(np.reshape(expected, (6, 1)), 2, 1), rtol=1e-6)
    np.testing.assert_array_equal(found[:, [0, 3]], [[2, -2]] * 6)
    assert force_tf.get_masks(model)["d/kernel"].ravel().tolist() == [True, False, False, True]
    pruning.stop()
    np.testing.assert_array_equal(raw(model.get_layer("d").layer.kernel).ravel(), [2, 0, 0, -2])


@keras_3_first
def test_those_that_stay_recover_once_others_are_chosen(either_keras):
    model = four_weights(either_keras, [2, 1, 1, -2])
    penalty = Penalty(step=0.5, ceiling=1.2, pick_ceiling=0.4, pick_step=0.2, recover=-0.1)
    pruning = PruneDuringTraining("greg_2", 0.5, end=5, every=1, penalty=penalty)
    found = trained_by_hand(model, pruning, 5)
    # λ of all: 0.2, 0.4; then of those that go 0.9, 1.4, 1.4, of the others -0.1.
    np.testing.assert_allclose(found[:, 1], np.cumprod([0.98, 0.96, 0.91, 0.86, 0.86]), rtol=1e-6)
    np.testing.assert_allclose(found[:, 3], -2 * np.cumprod([0.98, 0.96, 1.01, 1.01, 1.01]), rtol=1e-6)
    more = raw(model.get_layer("d").layer.kernel).ravel()
    model.train_on_batch(np.eye(4), np.zeros((4, 1)))
    np.testing.assert_array_equal(raw(model.get_layer("d").layer.kernel).ravel(), more)  # no force is left
    assert np.count_nonzero(more) == 2


@pytest.mark.parametrize("method", ["greg", "greg_2"])
def test_penalties_of_groups_stop_where_those_that_go_have_become_small(either_keras, method):
    model = four_weights(either_keras, [2, -2, 1, 1])
    picks = {"pick_ceiling": 0.2, "pick_step": 0.2, "recover": -1e-9} if method == "greg_2" else {}
    penalty = Penalty(step=2.1, ceiling=100.0, **picks)
    pruning = PruneDuringTraining(method, 0.5, end=100, every=1, penalty=penalty, granularity=(2, 1))
    found = trained_by_hand(model, pruning, 16)[:, 2]
    size, strength, average, stopped, expected = 1.0, 0.0, None, False, []
    stays = 2.0
    for step in range(16):
        average = stays / size if average is None else 0.9 * average + 0.1 * stays / size
        strength = 0.2 if picks and not step else strength if stopped else strength + 2.1
        stopped = average >= 1000  # in the update from which λ grows no more
        size *= abs(1 - 0.1 * strength)
        stays *= 1 - 0.1 * 0.2 if picks and not step else 1
        expected.append(size)
    np.testing.assert_allclose(np.abs(found), expected, rtol=1e-4)
    assert stopped
    assert strength < 30  # without a stop it were 32, and growing


def test_short_trainings_raise_the_steps_and_long_ones_have_the_papers():
    long = Penalty().growth(18_002)
    assert (long.step, long.updates) == (1e-4, 10_001)
    short = Penalty().growth(90)
    assert short.updates <= 51
    assert short.penalties(89)[0] == pytest.approx(1, abs=0.03)
    both = Penalty(pick_ceiling=0.01).growth(90)
    assert 1 <= both.picks < both.updates <= 52


@keras_3_first
def test_channels_are_chosen_as_wholes_and_removed(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras, either_keras.optimizers.SGD(0.05)))
    pruning = PruneDuringTraining("greg", 0.6, end=24, every=2, granularity="channel")
    kernels = []
    note = either_keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: kernels.append(raw(masked_weights(pruned)["a/kernel"].variable))
    )
    fit(pruned, note, pruning)
    kernel = force_tf.get_masks(pruned)["a/kernel"]
    dead = ~kernel.any(0)
    assert 0 < dead.sum() < 16
    assert kernel[:, ~dead].all()
    size = np.abs(kernels[22]).mean(0) / np.abs(kernels[0]).mean(0)
    assert size[dead].max() < size[~dead].min()
    assert force_tf.shrink(pruned).get_layer("a").units == (~dead).sum()


def test_a_file_without_marks_is_told(tmp_path):
    pruned = force_tf.apply_masks(dense_model(keras))
    fit(pruned, epochs=2)
    pruning = PruneDuringTraining("greg", 0.5, begin=0, end=24, every=4)
    with pytest.warns(UserWarning, match=r"^Expected a model, or a file, that remembers .*chosen anew"):
        fit(pruned, pruning, initial_epoch=2)
    assert force_tf.get_masks(pruned).kept == 172


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"step": 0}, ValueError, r"`step` to be a number in \(0, inf\). Received: step=0"),
        ({"ceiling": float("inf")}, ValueError, r"`ceiling` to be a number in \(0, inf\)"),
        ({"recover": "no"}, TypeError, r"`recover` to be a number in \(-inf, inf\). Received: recover='no'"),
        ({"pick_ceiling": 2.0}, ValueError, r"`pick_ceiling` to be below `ceiling`. Received: pick_ceiling=2.0"),
    ],
)
def test_bad_penalties(arguments, error, message):
    with pytest.raises(error, match=f"^Expected .*{message}"):
        Penalty(**arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("greg", {"pruned": "dense"}, r"no swap, revive=False and pruned=\"zero\""),
        ("greg", {"revive": True}, r"no swap, revive=False"),
        ("greg", {"schedule": "cubic"}, r'schedule="at_end" .*Received: schedule='),
        ("rigl", {"penalty": Penalty(), "data": (X, Y)}, r"a method that cuts; .*no use for penalty"),
    ],
)
def test_what_it_goes_with(method, arguments, message):
    with pytest.raises(ValueError, match=f"^Expected .*{message}"):
        PruneDuringTraining(method, 0.8, **arguments)


def test_penalties_that_do_not_get_there():
    pruned = force_tf.apply_masks(dense_model(keras))
    pruning = PruneDuringTraining("greg", 0.5, end=24, every=4, penalty=Penalty(step=0.1))
    with pytest.raises(
        ValueError, match=r"^Expected penalties that grow to their ceiling .* need 11 updates: .*Received: 6"
    ):
        fit(pruned, pruning)
