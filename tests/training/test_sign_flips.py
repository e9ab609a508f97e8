"""FlipOut: flips are counted in every step, against the authors' trace, and outlast the training that counts them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf import criteria
from force_tf.callbacks import PruneDuringTraining
from force_tf.granularity.selection import select
from helpers.golden_training import channels_last, data, flat, steps, traced_network
from helpers.moving_masks import X, Y, dense_model, fit, keras_3_first, masked_weights


def flips(model):
    """Returns what is counted of the weights of a model, flat."""
    found = [dict(each.remembered)["sign_flips"] for each in masked_weights(model).values()]
    return np.concatenate([count.ravel() for count in found])


def test_the_authors_training_end_to_end(all_float64):
    rows = steps("flipout_no_noise")
    optimizer = all_float64.optimizers.SGD(0.5, momentum=0.9)
    pruned = force_tf.apply_masks(traced_network(all_float64, rows, 5e-4, optimizer))
    pruning = PruneDuringTraining("flipout", 1 - 0.5**3, end=36, noise=0)
    counted, weights = [], []

    def after_step(batch, logs):
        parts = [dict(each.remembered)["sign_flips"] for each in masked_weights(pruned).values()]
        counted.append(np.concatenate([(p.transpose(3, 2, 0, 1) if p.ndim == 4 else p.T).ravel() for p in parts]))

    def after_update(batch, logs):
        weights.append(flat(pruned))

    lambdas = all_float64.callbacks.LambdaCallback
    callbacks = [lambdas(on_train_batch_end=after_step), pruning, lambdas(on_train_batch_end=after_update)]
    x, y = data()
    pruned.fit(x, y, batch_size=8, epochs=8, shuffle=False, verbose=0, callbacks=callbacks)
    np.testing.assert_array_equal(counted, rows["flips"])
    np.testing.assert_allclose(weights, rows["weights"], rtol=0, atol=2e-6)
    kept = [channels_last(part.reshape(shape)) for part, shape in parts_of(rows["mask_end"])]
    for mask, expected in zip(force_tf.get_masks(pruned).values(), kept, strict=True):
        np.testing.assert_array_equal(mask, expected)


def parts_of(flat_mask):
    return zip(np.split(flat_mask, [108, 180]), [(6, 2, 3, 3), (12, 6), (5, 12)])


def test_the_example_by_hand():
    theta, count = np.array([0.5, -0.4, 0.3, 0.1, -0.6, 0.2]), np.array([4, 0, 1, 0, 9, 1])

    class Network:
        weights, dense, memory = [theta], [tf.constant(theta)], {"sign_flips": [tf.constant(count)]}

    (scores,) = criteria.SignFlips().scores(Network)
    np.testing.assert_allclose(scores, [0.05, 0.16, 0.045, 0.01, 0.036, 0.02])
    assert set(np.flatnonzero(~select(scores.numpy(), [6], 3))) == {3, 5, 4}
    with pytest.raises(ValueError, match=r"^Expected `power` to be a number in \(0, inf\)\. Received: power=0"):
        criteria.SignFlips(power=0)


@keras_3_first
def test_flips_go_on_in_a_further_fit_and_in_a_loaded_model(either_keras, tmp_path):
    def pruning():
        return PruneDuringTraining("flipout", 0.5, begin=0, end=24)

    def make():
        return force_tf.apply_masks(dense_model(either_keras, either_keras.optimizers.SGD(1.0)))

    at_once, twice = make(), make()
    fit(at_once, pruning())
    with pytest.warns(UserWarning, match="Nothing was pruned: the training ended at step 8"):
        fit(twice, pruning(), epochs=1)
    twice.save(tmp_path / "model.keras")
    fit(twice, pruning(), epochs=4, initial_epoch=1)
    loaded = either_keras.models.load_model(tmp_path / "model.keras")
    fit(loaded, pruning(), epochs=4, initial_epoch=1)
    assert flips(at_once).any()
    for model in (twice, loaded):
        np.testing.assert_array_equal(flips(model), flips(at_once))
        assert force_tf.get_masks(model) == force_tf.get_masks(at_once)
    plain = force_tf.strip_pruning(loaded)
    assert not hasattr(plain.get_layer("a"), "masked_weights")


def test_nothing_is_counted_when_the_training_has_ended():
    pruned = force_tf.apply_masks(dense_model(keras, keras.optimizers.SGD(1.0)))
    fit(pruned, PruneDuringTraining("flipout", 0.5))
    before = flips(pruned)
    assert before.any()
    fit(pruned)
    np.testing.assert_array_equal(flips(pruned), before)


def test_before_a_training_there_are_no_flips():
    masks = [
        force_tf.PruneAtInit(method, sparsity=0.8).find_masks(dense_model(keras), verbose=0)
        for method in ("magnitude", criteria.SignFlips())
    ]
    assert masks[0] == masks[1]


def test_several_steps_at_once_and_batches_that_accumulate():
    one = force_tf.apply_masks(dense_model(keras, keras.optimizers.SGD(0.5)))
    four = force_tf.apply_masks(dense_model(keras, keras.optimizers.SGD(0.5), steps_per_execution=4))
    for model in (one, four):
        fit(model, PruneDuringTraining("flipout", 0.75, end=24, every=12), epochs=3)
    np.testing.assert_array_equal(flips(one), flips(four))
    slow = force_tf.apply_masks(dense_model(keras, keras.optimizers.SGD(0.5, gradient_accumulation_steps=4)))
    pruning = PruneDuringTraining("flipout", 0.5, end=1000, every=1000)
    pruning.start(slow)
    for _ in range(8):
        slow.train_on_batch(X, Y)
    assert flips(slow).max() <= 2  # as many as there were steps
