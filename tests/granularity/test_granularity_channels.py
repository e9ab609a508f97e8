"""Whole channels: networks by hand, and what `shrink` leaves of searches with random scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import force_tf
from force_tf.models.prunable import prunable_weights
from helpers.criteria import Given
from helpers.refusal import assert_one_sentence
from helpers.shrinking import NETWORKS, SETTINGS, assert_same_function, inputs_for, nested, randomized
from helpers.subclassed_models import without_graph
from helpers.training_forms import dtype_policy

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")  # scores by hand hold zeros


def chain(keras, *widths):
    stack = [keras.layers.Dense(width, name=name) for name, width in zip("abcd", widths[1:])]
    return keras.Sequential([keras.Input(widths[:1]), *stack], name="chain")


def find(model, scores, **options):
    pruner = force_tf.PruneAtInit(Given(*scores), granularity="channel", **options)
    return {path: mask.astype(int).tolist() for path, mask in pruner.find_masks(model, verbose=0).items()}


# Columns add up to 3, 5, 3 and 4, and to 1 and 9. The outputs, the columns of the last, stay whatever they score.
SCORES = ([[1, 5, 0, 2], [2, 0, 3, 2]], [[1, 0], [0, 0], [0, 1], [0, 8]], [[0], [0]])


@pytest.mark.parametrize(
    ("kept", "first", "second"),
    [
        # A unit of `a` has 2 weights and is read by one of each unit of `b`, which is read by 1.
        (18, [1, 1, 1, 1], [1, 1]),
        (17, [1, 1, 1, 1], [0, 1]),  # 13 weights
        (13, [1, 1, 1, 1], [0, 1]),
        (12, [1, 1, 0, 1], [0, 1]),  # 10: of equal sums the first stays
        (9, [0, 1, 0, 1], [0, 1]),  # 7
        (4, [0, 1, 0, 0], [0, 1]),  # 4: each layer keeps one
    ],
)
def test_a_chain_by_hand(either_keras, kept, first, second):
    masks = find(chain(either_keras, 2, 4, 2, 1), SCORES, sparsity=1 - kept / 18)
    assert masks == {
        "a/kernel": [first] * 2,
        "b/kernel": [[row and column for column in second] for row in first],
        "c/kernel": [[row] for row in second],
    }


def test_no_less_than_a_channel_of_each_layer(either_keras):
    with pytest.raises(ValueError, match="Expected") as caught:
        find(chain(either_keras, 2, 4, 2, 1), SCORES, sparsity=0.85)
    assert_one_sentence(caught.value, "at most 0.77.*granularity='channel'", "sparsity=0.85")


def test_the_same_fraction_of_each_layer(either_keras):
    scores = [np.full((2, 8), 9.0), np.ones((8, 4)), np.ones((4, 1))]
    masks = find(chain(either_keras, 2, 8, 4, 1), scores, sparsity=0.7, scope="layer")  # 52 weights, of which 16 stay
    assert [np.sum(mask) for mask in masks.values()] == [3 * 2, 3 * 2, 2]
    # By scores alone, all units of the first layer would come before the second of the other.
    masks = find(chain(either_keras, 2, 8, 4, 1), scores, sparsity=0.7)
    assert [np.sum(mask) for mask in masks.values()] == [5 * 2, 5, 1]


def test_floors(either_keras):
    scores = [np.full((2, 8), 9.0), np.ones((8, 4)), np.ones((4, 1))]
    masks = find(chain(either_keras, 2, 8, 4, 1), scores, sparsity=0.7, min_per_layer=3)
    assert all(np.sum(mask) >= 3 for mask in masks.values()), masks
    with pytest.raises(ValueError, match="Expected") as caught:
        find(chain(either_keras, 2, 8, 4, 1), scores, sparsity=0.7, min_per_layer=12)
    assert_one_sentence(caught.value, "`min_per_layer`", "min_per_layer=12")


def residual(keras):
    layers = keras.layers
    inputs = keras.Input((1,))
    x = layers.Dense(3, name="stem")(inputs)
    y = layers.Dense(2, name="inner")(x)
    x = layers.Add(name="sum")([x, layers.Dense(3, name="branch")(y)])
    return keras.Model(inputs, layers.Dense(1, name="logits")(x))


def test_branches_that_are_added_are_cut_alike_by_hand(either_keras):
    # The stem alone would keep its first unit, the branch its last; together the second is best, with 3 + 3.
    stem, inner, branch = [[4, 3, 0]], [[1, 1], [1, 1], [1, 0]], [[0, 2, 2], [0, 1, 2]]
    masks = find(residual(either_keras), [stem, inner, branch, np.ones((3, 1))], sparsity=0.7)  # 5 of 18 weights
    assert masks == {
        "stem/kernel": [[0, 1, 0]],
        "inner/kernel": [[0, 0], [1, 0], [0, 0]],
        "branch/kernel": [[0, 1, 0], [0, 0, 0]],
        "logits/kernel": [[0], [1], [0]],
    }


def test_layers_that_are_not_pruned_keep_what_they_read_and_make(either_keras):
    model = residual(either_keras)
    options = {"method": "magnitude", "granularity": "channel", "layers": ["stem", "inner", "branch"]}
    with pytest.raises(ValueError, match="cannot remove 9 of the 15 prunable weights"):  # one unit of `inner`: 3 + 3
        force_tf.PruneAtInit(sparsity=0.9, **options).find_masks(model)
    masks = force_tf.PruneAtInit(sparsity=0.4, **options).find_masks(model, verbose=0)
    assert masks["stem/kernel"].all()  # the logits read all units of the sum
    assert masks["inner/kernel"].any(axis=0).sum() == 1


@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning", "ignore:Every channel of the model")
@pytest.mark.parametrize("network", NETWORKS)
@settings(SETTINGS, max_examples=4)
@given(seed=st.integers(0, 2**16), sparsity=st.sampled_from([0.2, 0.4, 0.6]), opt_in=st.booleans())
def test_shrink_delivers_what_was_asked_for(either_keras, network, seed, sparsity, opt_in):
    rng = np.random.default_rng(seed)
    with dtype_policy("float64", either_keras):
        model = randomized(network(either_keras), rng)
    layers = (lambda layer: True) if opt_in else None  # depthwise kernels and embeddings too
    weights, _ = prunable_weights(model, layers)
    scores = Given(*(rng.normal(size=weight.shape) for weight in weights))
    pruner = force_tf.PruneAtInit(scores, sparsity, granularity="channel", layers=layers)
    if network is nested and sparsity > 0.3:  # between the models, and before the normalization, all channels stay
        with pytest.raises(ValueError, match="cannot remove"):
            pruner.prune(model, verbose=0)
        return
    pruned = pruner.prune(model, verbose=0)
    masks = force_tf.get_masks(pruned)
    assert masks.kept <= round(masks.total * (1 - sparsity))
    small = force_tf.shrink(pruned)
    left = force_tf.get_masks(small)
    assert all(mask.all() for mask in left.values()), left.to_table()
    assert left.total == masks.kept
    assert small.output_shape == model.output_shape
    assert_same_function(pruned, small, inputs_for(model, rng))


def test_pruned_channels_may_return(either_keras):
    class Turning(force_tf.criteria.Criterion):
        """Likes the first units in the first step, and the last ones then."""

        needs_data = False
        step = 0

        def scores(self, network):
            self.step += 1
            return [
                np.arange(weight.size, dtype="float32").reshape(weight.shape)[..., :: [1, -1][self.step % 2]]
                for weight in network.weights
            ]

    model = chain(either_keras, 2, 8, 1)
    for revive, expected in ((True, [4, 5, 6, 7]), (False, [0, 1, 2, 3])):
        pruner = force_tf.PruneAtInit(
            Turning(), 0.5, steps=2, schedule=lambda *_: 0.5, granularity="channel", revive=revive
        )
        masks = pruner.find_masks(model, verbose=0)
        assert np.flatnonzero(masks["a/kernel"].all(axis=0)).tolist() == expected
        assert pruner.history[-1]["revived"] == 8 * revive


def test_force_scores_pruned_channels():
    """With the weights that read a pruned channel at zero, it would have no gradient."""

    class Spy(force_tf.criteria.FORCE):
        def scores(self, network):
            self.last = list(super().scores(network))
            return self.last

    keras.utils.set_random_seed(0)
    model = chain(keras, 4, 16, 3)
    spy = Spy()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")
    force_tf.PruneAtInit(spy, 0.7, steps=3, granularity="channel").find_masks(model, data, "mse", verbose=0)
    assert (tf.reduce_sum(spy.last[0], axis=0).numpy() > 0).all()


def test_a_model_without_a_graph(either_keras):
    model = without_graph(either_keras)
    with pytest.raises(ValueError, match="Expected") as caught:
        force_tf.PruneAtInit("magnitude", 0.5, granularity="channel").find_masks(model)
    assert_one_sentence(caught.value, "Functional or Sequential", "'subclassed'")


def test_infinities_that_cancel_in_a_channel(either_keras):
    scores = [[[np.inf, 0], [-np.inf, 0]], [[1], [1]]]
    with pytest.raises(ValueError, match=r"add up in every channel.*Received: inf and -inf"):
        find(chain(either_keras, 2, 2, 1), scores, sparsity=0.5)
