"""Searches to a budget: never above it, near below it, and the densest network that fits."""

import numpy as np
import pytest

import force_tf

pytestmark = pytest.mark.filterwarnings("ignore:Every channel of the model")


def network(keras):
    layers = keras.layers
    model = keras.Sequential([keras.Input((20,)), layers.Dense(30, "relu", name="a"), layers.Dense(4, name="b")])
    model.compile(loss=keras.losses.MeanSquaredError())
    return model


def data():
    random = np.random.default_rng(0)
    return random.standard_normal((32, 20)).astype("float32"), random.standard_normal((32, 4)).astype("float32")


def parameters_left(pruned):
    """The weights and biases that are left of the two layers, counted in the shrunk network's own arrays."""
    small = force_tf.shrink(pruned)
    kept = sum(int(mask.sum()) for mask in force_tf.get_masks(small).values())
    return kept + sum(int(np.size(layer.bias)) for layer in force_tf.strip_pruning(small).layers)


def test_weights_meet_a_number_of_parameters_exactly(either_keras):
    model = network(either_keras)
    pruner = force_tf.PruneAtInit("snip", budget=force_tf.Budget(parameters=150), seed=0)
    pruned = pruner.prune(model, data(), verbose=0)
    masks = pruner.find_masks(model, data(), verbose=0)
    left = parameters_left(pruned)
    assert left == masks.metadata["budget"]["parameters"]["result"]
    assert 148 <= left <= 150  # a weight may bring a bias
    assert masks.metadata["budget"]["parameters"]["dense"] == 20 * 30 + 30 + 30 * 4 + 4
    denser = force_tf.PruneAtInit("snip", 1 - (masks.kept + 1) / masks.total, seed=0)
    assert parameters_left(denser.prune(model, data(), verbose=0)) > 150
    assert f"parameters: {left} of at most 150; dense: 754" in masks.to_table()


def test_the_search_ends_with_the_first_step_that_fits(either_keras):
    model = network(either_keras)
    pruner = force_tf.PruneAtInit("force", budget=force_tf.Budget(flops=0.3), granularity="channel", steps=4, seed=0)
    masks = pruner.find_masks(model, data(), verbose=0)
    assert 1 < len(pruner.history) <= 4
    # A hidden unit takes 20 + 4 multiply-adds, and 9 of 30 fit.
    assert masks.metadata["budget"]["flops"] == {"budget": 216, "result": 216, "dense": 720}
    small = force_tf.shrink(force_tf.apply_masks(model, masks))
    assert force_tf.count_flops(force_tf.strip_pruning(small)) == 216


@pytest.mark.slow  # some twenty files are written
def test_a_file_and_several_costs_at_once(either_keras, tmp_path):
    model = network(either_keras)
    budget = force_tf.Budget(file_bytes=0.9, quantize="float16", flops=0.8)
    pruned = force_tf.PruneAtInit("magnitude", budget=budget, granularity="channel").prune(model, verbose=0)
    small = force_tf.strip_pruning(force_tf.shrink(pruned))
    dense = force_tf.export_tflite(model, tmp_path / "dense.tflite", quantize="float16", verbose=False)
    found = force_tf.export_tflite(small, tmp_path / "small.tflite", quantize="float16", verbose=False)
    assert found.bytes <= 0.9 * dense.bytes
    assert force_tf.count_flops(small) <= 0.8 * 720


def test_what_cannot_be_met_says_the_least(either_keras):
    pruner = force_tf.PruneAtInit("snip", budget=force_tf.Budget(parameters=5), seed=0)
    with pytest.raises(ValueError, match=r"the least such network has parameters=\d+.*a budget of parameters=5"):
        pruner.find_masks(network(either_keras), data(), verbose=0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparsity": 0.9}, ValueError, "either `sparsity` or `budget`"),
        ({"repair": True}, ValueError, "repair=False with a budget"),
        ({"granularity": "2:4"}, ValueError, "other than a pattern"),
        ({"cut": "device"}, ValueError, 'cut="auto" or "host"'),
        ({"budget": 0.25}, TypeError, "force_tf.Budget or None"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        force_tf.PruneAtInit("snip", **{"budget": force_tf.Budget(flops=0.5), **settings})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Expected one of"),
        ({"flops": 0}, ValueError, "a fraction below 1 or a positive number"),
        ({"flops": "1k"}, TypeError, "a positive number"),
        ({"file_bytes": 0.5, "quantize": "int4"}, ValueError, "one of"),
        ({"flops": 0.5, "quantize": "int8"}, ValueError, "Expected `file_bytes`"),
    ],
)
def test_budgets_that_say_nothing_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        force_tf.Budget(**arguments)


def test_a_search_to_a_budget_takes_no_checkpoint(either_keras, tmp_path):
    pruner = force_tf.PruneAtInit("snip", budget=force_tf.Budget(flops=0.5))
    with pytest.raises(ValueError, match="cannot go on where it was"):
        pruner.find_masks(network(either_keras), data(), checkpoint=tmp_path / "state")
