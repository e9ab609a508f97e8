"""`PruneDuringTraining`: the methods, end to end under `fit` and by hand, in either Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf import schedules
from force_tf.callbacks import PruneDuringTraining, Swap
from force_tf.models.keras_models import tf_variable
from helpers.golden_training import TOTAL, channels_last, data, trace, traced_network
from helpers.moving_masks import X, Y, dense_model, fit, flat, keras_3_first, masked_weights, raw, sparse_model, state


def test_gmp_of_granet_end_to_end(all_float64):
    rows = trace("granet_repo_gmp")
    kept = [int(count) for count in rows["kept"] if count >= 0]  # this code keeps one less than the density says
    optimizer = all_float64.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    pruned = force_tf.apply_masks(traced_network(all_float64, rows, 5e-4, optimizer))
    pruning = PruneDuringTraining(
        "gmp", 1 - kept[-1] / TOTAL, scope="global", schedule=[count / TOTAL for count in kept], end=27, every=3
    )
    x, y = data()
    pruned.fit(x, y, batch_size=8, epochs=8, shuffle=False, verbose=0, callbacks=[pruning])
    assert [row["step"] for row in pruning.history] == list(range(0, 28, 3))
    for path, mask in force_tf.get_masks(pruned).items():
        name = path.removesuffix("/kernel")
        assert np.array_equal(mask, channels_last(rows[f"mask_end/{name}.weight"]))
        kernel, bias = pruned.get_layer(name).layer.get_weights()[:2]
        # Both Kerases round the momentum to 32 bits, whatever the weights are in.
        np.testing.assert_allclose(kernel, channels_last(rows[f"end/{name}.weight"]), rtol=0, atol=2e-7)
        np.testing.assert_allclose(bias, rows[f"end/{name}.bias"], rtol=0, atol=2e-7)


def test_gmp_prunes_as_much_of_each_layer_as_its_schedule_says(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    pruning = PruneDuringTraining("gmp", sparsity=0.75, begin=8, end=24, every=4)
    fit(pruned, pruning)
    assert [row["step"] for row in pruning.history] == [8, 12, 16, 20, 24]
    densities = [1, *(schedules.cubic(step, 4, 0.25) for step in range(1, 5))]
    assert [row["density"] for row in pruning.history] == pytest.approx([round(344 * d) / 344 for d in densities])
    masks = force_tf.get_masks(pruned)
    for mask in masks.values():
        assert abs(mask.sum() - 0.25 * mask.size) < 1
    assert all(row["grown"] == 0 for row in pruning.history)


def test_what_is_pruned_is_what_was_smallest(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras, "sgd"))
    pruning = PruneDuringTraining("gmp", sparsity=0.5, scope="global", begin=0, end=3, every=3)
    pruning.start(pruned)
    for _ in range(3):
        pruned.train_on_batch(X, Y)
        before = np.concatenate([abs(raw(each.variable)).ravel() for each in masked_weights(pruned).values()])
        pruning.after_step()
    pruning.stop()
    kept = flat(force_tf.get_masks(pruned))
    assert kept.sum() == 172
    assert before[kept].min() > before[~kept].max()


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "legacy"])
@pytest.mark.parametrize("method", ["rigl", "set", "granet"])
def test_what_moves_starts_from_zero_and_what_stays_stays(either_keras, method, optimizer):
    if optimizer == "legacy":
        if either_keras is keras:
            pytest.skip("Keras 3 has no legacy optimizers")
        optimizer = either_keras.optimizers.legacy.Adam(0.01)
    elif optimizer == "momentum":
        optimizer = either_keras.optimizers.SGD(0.1, momentum=0.9)
    pruned = sparse_model(either_keras, optimizer, 0.5)
    pruning = PruneDuringTraining(method, sparsity=0.5, end=100, every=2, data=(X, Y))
    pruning.start(pruned, steps=120)
    for step in range(1, 11):
        pruned.train_on_batch(X, Y)
        masks, before = force_tf.get_masks(pruned), state(pruned)
        assert all(len(values) > 1 for values in before.values()), "the optimizer's state was not found"
        pruning.after_step()
        after_masks, after = force_tf.get_masks(pruned), state(pruned)
        if step % 2:
            assert after_masks == masks
            continue
        assert after_masks.kept == masks.kept
        for path, mask in masks.items():
            stays = mask & after_masks[path]
            for old, new in zip(before[path], after[path], strict=True):
                np.testing.assert_array_equal(new[stays], old[stays])
                assert not new[~stays].any()
    assert sum(row["grown"] for row in pruning.history) > 20


def test_a_grown_weight_is_among_those_with_the_largest_gradients(either_keras):
    pruned = sparse_model(either_keras, "sgd", 0.8)
    masks = force_tf.get_masks(pruned)
    theta = {path: raw(each.variable) for path, each in masked_weights(pruned).items()}
    plain = dense_model(either_keras, "sgd")
    for layer in plain.layers:
        layer.set_weights([theta[f"{layer.name}/kernel"], layer.get_weights()[1]])
    with tf.GradientTape() as tape:
        loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, plain(X, training=True))
    gradients = tape.gradient(loss, [tf_variable(layer.kernel) for layer in plain.layers])
    pruning = PruneDuringTraining("rigl", sparsity=0.8, end=10, every=5, data=(X, Y), batch_size=64)
    pruning.start(pruned)  # the first update comes before the first step
    after = force_tf.get_masks(pruned)
    for (path, mask), gradient in zip(masks.items(), gradients):
        count = int(0.3 * mask.sum())
        kept = mask.copy()
        order = np.argsort(abs(theta[path][mask]))
        kept[tuple(index[order[:count]] for index in np.nonzero(mask))] = False
        score = np.where(kept, -1, abs(gradient.numpy()))
        kept.ravel()[np.argsort(-score.ravel())[:count]] = True
        assert np.array_equal(after[path], kept)


@keras_3_first
def test_set_grows_at_random_by_its_seed(either_keras):
    found = []
    for seed in (0, 0, 1):
        pruned = sparse_model(either_keras)
        fit(pruned, PruneDuringTraining("set", sparsity=0.8, every=8, seed=seed), epochs=2)
        found.append(force_tf.get_masks(pruned))
    assert found[0] == found[1] != found[2]
    assert found[0].kept == found[2].kept


def test_the_swaps_of_granet_go_on_after_its_last_cut():
    pruned = force_tf.apply_masks(dense_model(keras))
    pruning = PruneDuringTraining("granet", sparsity=0.8, every=2, data=(X, Y))
    fit(pruned, pruning)
    rows = pruning.history
    assert [row["step"] for row in rows] == list(range(2, 33, 2))
    assert [row["density"] for row in rows if row["step"] >= 22] == [69 / 344] * 6  # 0.6875 of 32 steps is 22
    assert any(row["grown"] for row in rows if row["step"] > 22)


def test_granet_leaves_a_weight_in_a_layer_that_it_would_empty():
    found = []
    for floor in (None, 0):
        model = dense_model(keras, "sgd")
        model.get_layer("c").set_weights([1e-4 * np.ones((8, 3)), np.zeros(3)])
        pruned = force_tf.apply_masks(model)
        pruning = PruneDuringTraining("granet", 0.95, end=3, every=1, min_per_layer=floor, data=(X, Y))
        pruning.start(pruned, steps=100)
        for _ in range(3):
            pruned.optimizer.iterations.assign_add(1)
            pruning.after_step()
        found.append(int(force_tf.get_masks(pruned)["c/kernel"].sum()))
        assert force_tf.get_masks(pruned).kept == 17
    assert found == [1, 0]


@keras_3_first
def test_nothing_happens_without_swaps_or_cuts(either_keras):
    still, moving = sparse_model(either_keras), sparse_model(either_keras)
    fit(still)
    fit(moving, PruneDuringTraining("set", sparsity=0.8, every=4, swap=Swap(0.0, "random")))
    assert force_tf.get_masks(moving) == force_tf.get_masks(still)
    for one, other in zip(still.get_weights(), moving.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_the_model_is_as_it_was_after_taking_gradients(either_keras):
    layers = either_keras.layers
    either_keras.utils.set_random_seed(0)
    model = either_keras.Sequential(
        [
            either_keras.Input((12,)),
            layers.Dense(16, "relu", name="a"),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(3, name="c"),
        ]
    )
    model.compile("adam", either_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned = force_tf.PruneAtInit("random", sparsity=0.8, seed=0).prune(model, verbose=0)
    pruning = PruneDuringTraining("rigl", sparsity=0.8, end=10, every=5, data=(X, Y), swap=Swap(0.001))
    before = pruned.get_weights()
    pruning.start(pruned)  # too small a fraction for any weight to move
    for old, new in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@keras_3_first
def test_several_fits_go_on_with_the_same_clock(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    for epochs in (2, 4):
        pruning = PruneDuringTraining("gmp", sparsity=0.8, begin=4, end=28, every=4)
        fit(pruned, pruning, epochs=epochs, initial_epoch=epochs - 2)
    at_once = force_tf.apply_masks(dense_model(either_keras))
    fit(at_once, PruneDuringTraining("gmp", sparsity=0.8, begin=4, end=28, every=4))
    assert force_tf.get_masks(pruned) == force_tf.get_masks(at_once)
    # Fractions are of the whole training, also where it is resumed.
    halves = force_tf.apply_masks(dense_model(either_keras))
    fit(halves, PruneDuringTraining("gmp", sparsity=0.8, every=4), epochs=4)
    resumed = force_tf.apply_masks(dense_model(either_keras))
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, PruneDuringTraining("gmp", 0.8, every=4), interrupt(either_keras, 1))
    fit(resumed, PruneDuringTraining("gmp", sparsity=0.8, every=4), epochs=4, initial_epoch=2)
    assert force_tf.get_masks(resumed) == force_tf.get_masks(halves)
    # A further training of its own begins anew.
    again = PruneDuringTraining("gmp", sparsity=0.85, initial_sparsity=0.8, every=4)
    fit(resumed, again)
    assert [row["step"] for row in again.history] == [32, 36, 40, 44, 48, 52, 56]
    assert force_tf.get_masks(resumed).kept == round(344 * 0.15)


def interrupt(module, epoch):
    """Returns a callback that ends `fit` after an epoch as a kill does: no other callback is told."""

    def on_epoch_end(now, logs):
        if now == epoch:
            raise KeyboardInterrupt

    return module.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


def test_fggp_takes_the_smallest_of_the_half_with_the_smallest_gradients(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras, "sgd"))
    pruning = PruneDuringTraining("fggp", sparsity=0.3, end=1, every=1, data=(X, Y), batch_size=64)
    pruning.start(pruned)
    pruned.train_on_batch(X, Y)
    variables = [tf_variable(each.variable) for each in masked_weights(pruned).values()]
    with tf.GradientTape() as tape:
        loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, pruned(X, training=True))
    gradient = np.concatenate([abs(g.numpy()).ravel() for g in tape.gradient(loss, variables)])
    theta = np.concatenate([abs(v.numpy()).ravel() for v in variables])
    pruning.after_step()
    candidates = np.argsort(gradient, kind="stable")[:172]
    gone = candidates[np.argsort(theta[candidates])[: 344 - round(0.7 * 344)]]
    assert set(np.flatnonzero(~flat(force_tf.get_masks(pruned)))) == set(gone)


def test_snip_it_prunes_half_and_then_half_of_the_way(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    pruning = PruneDuringTraining("snip_it", sparsity=0.7, data=(X, Y), batch_size=16)
    fit(pruned, pruning, epochs=5)
    assert [row["step"] for row in pruning.history] == [2, 4, 6, 8, 10, 12, 14, 16]
    plan = [0, 0.5, 0.6, 0.65, 0.675, 0.6875, 0.69375, 0.7]
    assert [row["density"] for row in pruning.history] == pytest.approx([round(344 * (1 - s)) / 344 for s in plan])
