"""Live-path repair and the effective sparsity, against paths that are counted by hand and by matrices of booleans."""

import numpy as np
import pytest

import force_tf
from force_tf.models.live_paths import NoPathsError
from tests.helpers.criteria import Given

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # of random masks without a repair


def two_layers(keras, activation="relu"):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation=activation, name="hidden"),
            keras.layers.Dense(2, activation="softmax", name="head"),
        ]
    )


def live_by_matrices(kernels):
    """Which kept weights of a chain of dense layers lie on a path: forward and backward reach of every unit."""
    forward = [np.ones(len(kernels[0]), bool)]
    for kernel in kernels:
        forward.append((forward[-1][:, None] & kernel).any(0))
    backward = [np.ones(kernels[-1].shape[1], bool)]
    for kernel in reversed(kernels):
        backward.insert(0, (kernel & backward[0]).any(1))
    return [kernel & a[:, None] & b for kernel, a, b in zip(kernels, forward, backward[1:])]


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_effective_sparsity_counts_what_lies_on_no_path_as_removed(either_keras, activation):
    model = two_layers(either_keras, activation)
    before = model.get_weights()
    hidden, head = np.zeros((4, 3), bool), np.zeros((3, 2), bool)
    hidden[0, 0] = hidden[1, 0] = True  # both go on to the head by unit 0
    hidden[1, 1] = True  # nothing reads unit 1
    head[0, 1] = True
    head[2, 0] = True  # nothing makes unit 2
    masks = force_tf.Masks({"hidden/kernel": hidden, "head/kernel": head})
    assert masks.sparsity == pytest.approx(1 - 5 / 18)
    assert masks.effective_sparsity(model) == pytest.approx(1 - 3 / 18)
    assert masks.effective_sparsity(force_tf.apply_masks(model, masks)) == pytest.approx(1 - 3 / 18)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_paths_go_around_an_empty_layer_by_a_skip_connection(either_keras):
    inputs = either_keras.Input((6, 6, 2))
    x = either_keras.layers.Conv2D(2, 3, padding="same", name="inside")(inputs)
    x = either_keras.layers.BatchNormalization()(x)
    x = either_keras.layers.Add()([x, inputs])
    x = either_keras.layers.GlobalMaxPooling2D()(x)
    model = either_keras.Model(inputs, either_keras.layers.Dense(2, name="head")(x))
    inside, head = np.zeros((3, 3, 2, 2), bool), np.ones((2, 2), bool)
    assert force_tf.Masks({"inside/kernel": inside, "head/kernel": head}).effective_sparsity(model) == 1 - 4 / 40
    inside[0, 0, 0, 1] = True
    assert force_tf.Masks({"inside/kernel": inside, "head/kernel": head}).effective_sparsity(model) == 1 - 5 / 40


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_every_weight_is_live_after_a_repair_and_as_many_are_kept(either_keras, seed, scope):
    layers = [either_keras.layers.Dense(units, "relu", name=f"dense_{units}") for units in (30, 20, 10)]
    model = either_keras.Sequential([either_keras.Input((40,)), *layers])
    settings = {"sparsity": 0.9, "scope": scope, "seed": seed}
    plain = force_tf.PruneAtInit("random", **settings).find_masks(model, verbose=0)
    repaired = force_tf.PruneAtInit("random", repair=True, **settings).find_masks(model, verbose=0)
    assert not all(np.array_equal(a, b) for a, b in zip(live_by_matrices([*plain.values()]), plain.values()))
    assert repaired.kept == plain.kept == 200
    for live, mask in zip(live_by_matrices([*repaired.values()]), repaired.values()):
        np.testing.assert_array_equal(live, mask)
    if scope != "global":
        assert [mask.sum() for mask in repaired.values()] == [mask.sum() for mask in plain.values()]
    live = sum(int(each.sum()) for each in live_by_matrices([*plain.values()]))
    assert plain.metadata["effective_sparsity"] == pytest.approx(1 - live / 2000)
    assert repaired.metadata["effective_sparsity"] == pytest.approx(0.9)
    assert repaired.to_table().splitlines()[-1] == (
        "Effective sparsity: 90.0000% (200 of 200 kept weights on live paths)"
    )


def test_the_best_live_weights_take_the_place_of_dead_ones(either_keras):
    model = two_layers(either_keras)
    hidden = [[9, 1, 0], [8, 7, 0], [3, 0, 0], [0, 0, 4]]
    head = [[2, 6], [0, 0], [0, 5]]
    # The five best are 9, 8, 7 (which nothing reads), 6 and 5 (which nothing makes). Of the weights between the units
    # that are left the best are 3 and 2.
    masks = force_tf.PruneAtInit(Given(hidden, head), 1 - 5 / 18, repair=True).find_masks(model, verbose=0)
    kept = [np.argwhere(mask).tolist() for mask in masks.values()]
    assert kept == [[[0, 0], [1, 0], [2, 0]], [[0, 0], [0, 1]]]


@pytest.mark.parametrize("kept", [2, 3, 6])
def test_a_network_that_has_collapsed_is_put_together_again(either_keras, kept):
    model = two_layers(either_keras)
    scores = np.arange(12, 0, -1).reshape(4, 3), -np.arange(6).reshape(3, 2)  # all that is kept is in the first layer
    pruner = force_tf.PruneAtInit(Given(*scores), 1 - kept / 18, repair=True)
    masks = pruner.find_masks(model, verbose=0)
    assert masks.kept == kept
    for live, mask in zip(live_by_matrices([*masks.values()]), masks.values()):
        np.testing.assert_array_equal(live, mask)
    assert masks["head/kernel"][0, 0]


def test_what_cannot_be_repaired_is_refused(either_keras):
    with pytest.raises(
        ValueError, match=r"granularity=\"weight\" for a repair.*Received: repair=True, granularity='2:4'"
    ):
        force_tf.PruneAtInit("random", 0.5, granularity="2:4", repair=True)
    signs = either_keras.layers.Lambda(lambda x: x * 0)
    model = either_keras.Sequential(
        [
            either_keras.Input((4,)),
            either_keras.layers.Dense(3, name="a"),
            signs,
            either_keras.layers.Dense(2, name="b"),
        ]
    )
    with pytest.raises(NoPathsError, match="nothing comes through a/kernel"):
        force_tf.PruneAtInit("magnitude", 0.5, repair=True).find_masks(model, verbose=0)
    masks = force_tf.Masks({"a/kernel": np.ones((4, 3), bool)})
    with pytest.raises(ValueError, match="paths can be followed"):
        masks.effective_sparsity(model)
    with pytest.raises(ValueError, match="shape"):
        force_tf.Masks({"a/kernel": np.ones((4, 4), bool)}).effective_sparsity(model)
    speaking = two_layers(either_keras, "sigmoid")
    with pytest.raises(NoPathsError, match="activations such as sigmoid"):
        force_tf.PruneAtInit("magnitude", 0.5, repair=True).find_masks(speaking, verbose=0)
    found = force_tf.PruneAtInit("magnitude", 0.5).find_masks(speaking, verbose=0)
    assert found.metadata["effective_sparsity"] is None
    assert "Effective" not in found.to_table()
