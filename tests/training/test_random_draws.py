"""Stochastic subnetwork annealing: pruned weights are drawn into passes of the training, less and less, and go."""

import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.callbacks import Draws, PruneDuringTraining
from helpers.moving_masks import dense_model, fit, keras_3_first, masked_weights, raw
from helpers.training_forms import dtype_policy


def eight_weights(module, draws, end=10**6, seed=0):
    """Returns a model whose outputs are its eight weights, all 1, of which four are masked, and what prunes it."""
    model = module.Sequential([module.Input((8,)), module.layers.Dense(1, use_bias=False, name="d")])
    model.get_layer("d").set_weights([np.ones((8, 1))])
    model.compile(module.optimizers.SGD(0.1), "mse")
    pruned = force_tf.apply_masks(model)
    pruning = PruneDuringTraining("annealing", 0.5, end=end, draws=draws, seed=seed)
    pruning.start(pruned)
    return pruned, pruning


def passes(model, count, first=0, training=True):
    """Returns what the model computes with, of weights that are all 1, after so many steps."""

    @tf.function
    def compute():
        return model(np.eye(8), training=training)

    found = []
    for step in range(first, first + count):
        model.optimizer.iterations.assign(step)
        found.append(compute().numpy().ravel())
    return np.array(found)


def test_half_of_the_passes_have_a_weight_whose_probability_is_a_half(either_keras):
    model, _ = eight_weights(either_keras, Draws(0.5))
    found = passes(model, 1000)
    assert set(found.ravel()) == {0.0, 1.0}
    kept = force_tf.get_masks(model)["d/kernel"].ravel()
    np.testing.assert_array_equal(found[:, kept], 1)
    drawn = found[:, ~kept]
    assert np.all(abs(drawn.mean(0) - 0.5) < 4 * 0.5 / 1000**0.5)
    assert abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 4 / 1000**0.5  # each by itself
    assert abs(np.mean(drawn[1:] * drawn[:-1]) - 0.25) < 0.05  # and anew in each pass
    np.testing.assert_array_equal(passes(eight_weights(either_keras, Draws(0.5))[0], 20), found[:20])
    assert np.any(passes(eight_weights(either_keras, Draws(0.5), seed=1)[0], 20) != found[:20])


def test_outside_of_the_training_there_is_no_chance(either_keras):
    model, pruning = eight_weights(either_keras, Draws(0.5))
    kept = force_tf.get_masks(model)["d/kernel"].ravel()
    np.testing.assert_array_equal(passes(model, 3, training=False), [kept] * 3)
    np.testing.assert_array_equal(model.predict(np.eye(8), verbose=0).ravel(), kept)
    assert model.evaluate(np.eye(8), kept.reshape(8, 1), verbose=0) == 0
    np.testing.assert_array_equal(force_tf.strip_pruning(model).get_weights()[0].ravel(), kept)
    assert np.all(raw(masked_weights(model)["d/kernel"].variable) == 1)
    pruning.stop()
    np.testing.assert_array_equal(raw(masked_weights(model)["d/kernel"].variable).ravel(), kept)


@keras_3_first
def test_at_the_end_the_masks_are_all_there_is(either_keras):
    model, _ = eight_weights(either_keras, Draws(1.0, anneal="linear"), end=100)
    kept = force_tf.get_masks(model)["d/kernel"].ravel()
    assert np.all(passes(model, 1) == 1)
    np.testing.assert_array_equal(passes(model, 20, first=100), [kept] * 20)
    drawn = passes(model, 100)[:, ~kept].mean(1)
    assert np.polyfit(range(100), drawn, 1)[0] == pytest.approx(-0.01, abs=0.002)


@keras_3_first
@pytest.mark.parametrize("weighting", ["random", "magnitude"])
def test_weights_of_different_probabilities(either_keras, weighting):
    model, _ = eight_weights(either_keras, Draws(1.0, weighting=weighting))
    layer = masked_weights(model)["d/kernel"]
    kept = force_tf.get_masks(model)["d/kernel"].ravel()
    size = np.where(kept, 1, 1 / np.arange(2, 10))
    getattr(layer.variable, "_value", layer.variable).assign(size.reshape(8, 1))
    share = (passes(model, 400) != 0).mean(0)[~kept]
    if weighting == "magnitude":
        assert np.all(abs(share - size[~kept]) < 4 * 0.5 / 400**0.5)
    else:
        assert len(set(np.round(share, 1))) > 2
        again = (passes(model, 400, first=1000) != 0).mean(0)[~kept]
        assert abs(share - again).max() < 4 * 0.5 * (2 / 400) ** 0.5  # each has its own for good


def test_what_is_not_drawn_has_no_gradient(either_keras):
    model, _ = eight_weights(either_keras, Draws(0.5))
    before = raw(masked_weights(model)["d/kernel"].variable).ravel()
    drawn = passes(model, 1)[0]
    model.optimizer.iterations.assign(0)
    model.train_on_batch(np.eye(8), np.zeros((8, 1)))
    moved = raw(masked_weights(model)["d/kernel"].variable).ravel() != before
    np.testing.assert_array_equal(moved, drawn != 0)


@keras_3_first
def test_probabilities_of_zero_train_as_masks_do(either_keras):
    still, drawing = (force_tf.apply_masks(dense_model(either_keras)) for _ in range(2))
    pruning = PruneDuringTraining("annealing", 0.8, draws=Draws(0.0))
    fit(drawing, pruning)
    assert [row["density"] for row in pruning.history] == [69 / 344] * 2
    fit(still, PruneDuringTraining("gmp", 0.8, scope="global", schedule="constant"))
    assert force_tf.get_masks(drawing) == force_tf.get_masks(still)
    for one, other in zip(still.get_weights(), drawing.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@keras_3_first
@pytest.mark.parametrize("form", ["jit_compile", "mixed_float16"])
def test_forms_of_training(either_keras, form):
    with dtype_policy("mixed_float16" if form == "mixed_float16" else "float32", either_keras):
        pruned = force_tf.apply_masks(dense_model(either_keras, **({form: True} if form == "jit_compile" else {})))
        fit(pruned, PruneDuringTraining("annealing", 0.8), epochs=2)
    masks = force_tf.get_masks(pruned)
    assert masks.kept == 69
    for path, each in masked_weights(pruned).items():
        assert not raw(each.variable)[~masks[path]].any()
        assert np.isfinite(raw(each.variable)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": 1.5}, ValueError, r"`temperature` to be a number in \[0, 1\]. Received: temperature=1.5"),
        ({"temperature": "hot"}, TypeError, r"`temperature` to be a number"),
        ({"anneal": "constant"}, ValueError, r"Received: anneal='constant'"),
        ({"weighting": "equl"}, ValueError, r"Did you mean 'equal'\?"),
    ],
)
def test_bad_draws(arguments, error, message):
    with pytest.raises(error, match=f"^Expected .*{message}"):
        Draws(**arguments)


def test_what_it_goes_with():
    with pytest.raises(ValueError, match=r'^Expected `draws` with pruned="random" alone. Received: pruned=\'zero\''):
        PruneDuringTraining("gmp", 0.8, draws=Draws())
    with pytest.raises(TypeError, match=r"^Expected `draws` to be a force_tf.callbacks.Draws. Received: draws=0.5"):
        PruneDuringTraining("annealing", 0.8, draws=0.5)
    with pytest.raises(ValueError, match=r'^Expected pruned="zero" for a method that swaps'):
        PruneDuringTraining("set", 0.8, pruned="random")
