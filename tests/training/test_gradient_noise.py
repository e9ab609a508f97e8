"""FlipOut's noise on gradients: as large as they are, on kept weights alone, and anew in every step."""

import numpy as np
import pytest

import force_tf
from force_tf.callbacks import PruneDuringTraining
from helpers.moving_masks import X, Y, dense_model, fit, keras_3_first, masked_weights, raw

INPUTS = 4096


def network(module):
    """Returns a model whose output is the sum of its weights, half of which are pruned: all gradients are 3."""
    model = module.Sequential([module.Input((INPUTS,)), module.layers.Dense(1, "linear", False, "zeros", name="d")])
    model.compile(module.optimizers.SGD(1.0), lambda y, output: 3 * output)
    return force_tf.apply_masks(model, {"d/kernel": np.arange(INPUTS)[:, None] % 2 == 0})


def noise_of_steps(model, pruning, steps=3):
    """Returns what the steps take from the weights beside their gradient."""
    pruning.start(model)
    found = []
    for _ in range(steps):
        before = raw(masked_weights(model)["d/kernel"].variable).ravel()
        model.train_on_batch(np.ones((1, INPUTS)), np.zeros((1, 1)))
        moved = before - raw(masked_weights(model)["d/kernel"].variable).ravel()
        found.append(np.where(np.arange(INPUTS) % 2 == 0, moved - 3, moved))
    pruning.stop()
    return np.array(found)


def test_the_noise_is_as_large_as_the_gradient_is(either_keras):
    def pruning(**settings):
        return PruneDuringTraining("flipout", 0.75, begin=100, end=1000, **settings)

    noise = noise_of_steps(network(either_keras), pruning(noise=0.5))
    assert not noise[:, 1::2].any()  # pruned
    kept = noise[:, ::2]
    # λ‖g‖/√N, of N weights of which half have the gradient 3
    expected = 0.5 * 3 * np.sqrt(INPUTS / 2) / np.sqrt(INPUTS)
    np.testing.assert_allclose(kept.std(1), expected, rtol=5 / np.sqrt(INPUTS))
    assert np.all(abs(kept.mean(1)) < 5 * expected / np.sqrt(INPUTS / 2))
    assert abs(np.corrcoef(kept) - np.eye(3)).max() < 0.1  # anew in every step
    np.testing.assert_array_equal(noise_of_steps(network(either_keras), pruning(noise=0.5)), noise)
    assert np.any(noise_of_steps(network(either_keras), pruning(noise=0.5, seed=1)) != noise)
    np.testing.assert_allclose(noise_of_steps(network(either_keras), pruning())[:, ::2], 2 * kept, atol=1e-4)
    assert not noise_of_steps(network(either_keras), pruning(noise=0)).any()


@keras_3_first
def test_the_noise_ends_with_the_training_and_no_one_else_has_it(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras, either_keras.optimizers.SGD(0.1)))
    criterion = force_tf.criteria.GradientMagnitude()
    still, noisy = (
        PruneDuringTraining(criterion, 0.5, end=8, every=8, data=(X, Y), noise=noise) for noise in (None, 100.0)
    )
    masks = []
    for pruning in (still, noisy):  # the scores of a network that did not train in between
        model = force_tf.apply_masks(dense_model(either_keras))
        pruning.start(model)
        model.optimizer.iterations.assign(8)
        pruning.after_step()
        pruning.stop()
        masks.append(force_tf.get_masks(model))
    assert masks[0] == masks[1]
    fit(pruned, PruneDuringTraining("gmp", 0.5, noise=1.0), epochs=1)
    again = force_tf.apply_masks(dense_model(either_keras, either_keras.optimizers.SGD(0.1)))
    again.set_weights(pruned.get_weights())
    for model in (pruned, again):
        fit(model, epochs=1)
    for one, other in zip(pruned.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": -1}, ValueError, "`noise` to be a number in \\[0, inf\\). Received: noise=-1"),
        ({"noise": "much"}, TypeError, "`noise` to be a number in \\[0, inf\\). Received: noise='much'"),
        ({"method": "dpf", "noise": 1.0}, ValueError, "noise=0 where pruned weights train on.* Received: noise=1"),
    ],
)
def test_bad_noise(arguments, error, message):
    with pytest.raises(error, match=f"^Expected .*{message}"):
        PruneDuringTraining(**{"method": "flipout", **arguments})
