"""Blocks and N:M patterns: kernels by hand, the axis that a pattern follows, and what does not fit."""

import math
import re

import keras
import numpy as np
import pytest

import force_tf
from helpers.criteria import Given
from helpers.refusal import assert_one_sentence, refuse

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")  # scores by hand hold zeros

# By hand: a criterion that gives the scores written here.


def dense(keras, *shape, name="dense"):
    return keras.Sequential([keras.Input(shape[:1]), keras.layers.Dense(shape[1], name=name)])


def mask_of(model, scores, **options):
    masks = force_tf.PruneAtInit(Given(scores), **options).find_masks(model, verbose=0)
    return masks["dense/kernel"].astype(int).tolist()


ROWS = [
    [1, 1, 1, 1, 9, 0],  # blocks of 4 add up to 4 and 9,
    [0, 5, 0, 0, 2, 2],  # 5 and 4,
    [3, 0, 0, 1, 1, 1],  # 4 and 2
]


@pytest.mark.parametrize("shape", [(1, 4), [1, 4], (4,), (1, 1, 4)])
def test_blocks_of_a_row_by_hand(either_keras, shape):
    found = mask_of(dense(either_keras, 3, 6), ROWS, sparsity=0.5, granularity=shape)
    # Of the three blocks that add up to 4 the first joins the best two.
    assert found == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_square_blocks_that_do_not_divide_the_kernel_by_hand(either_keras):
    scores = [
        [1, 1, 2],
        [1, 1, 3],
        [3, 3, 9],
    ]
    # 4 for the whole block, 5 beside it, 6 below it and 9 in the corner.
    model = dense(either_keras, 3, 3)
    assert mask_of(model, scores, sparsity=0.75, granularity=(2, 2)) == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert mask_of(model, scores, sparsity=0.5, granularity=(2, 2)) == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert mask_of(model, scores, sparsity=0.25, granularity=(2, 2)) == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    # Longer than the kernel: each column is a block, 5, 5 and 14.
    assert mask_of(model, scores, sparsity=0.5, granularity=(10**12, 1)) == [[1, 0, 1], [1, 0, 1], [1, 0, 1]]


def test_equal_weights_in_another_order_are_equal_blocks(either_keras):
    """In float32 the second block would add up to more than the first."""
    scores = [[0.1, 1e4, 0.1, 0.1, 0.1, 0.1, 0.1, 1e4]]
    assert mask_of(dense(either_keras, 1, 8), scores, sparsity=0.5, granularity=(1, 4)) == [[1, 1, 1, 1, 0, 0, 0, 0]]


COLUMNS = [
    [5, 0],
    [1, 0],
    [4, 0],
    [4, 0],  # here ends the first group of four
    [7, 1],
    [7, 2],
]


@pytest.mark.parametrize(
    ("pattern", "sparsity", "kept"),
    [
        # Of two, half of the four, one is kept.
        ("2:4", 0.5, [[1, 1], [0, 1], [1, 0], [0, 0], [1, 0], [0, 1]]),
        # Neither the second 4 of its group nor the second 7 is allowed.
        ("2:4", 0.75, [[1, 0], [0, 0], [1, 0], [0, 0], [1, 0], [0, 0]]),
        ("1:4", 2 / 3, [[1, 1], [0, 0], [0, 0], [0, 0], [1, 0], [0, 1]]),
        ("1:3", 2 / 3, [[1, 1], [0, 0], [0, 0], [0, 0], [1, 0], [0, 1]]),
        # Of two, three quarters, rounded up, are two: 5 of each column.
        ("3:4", 1 / 6, [[1, 1], [0, 1], [1, 1], [1, 0], [1, 1], [1, 1]]),
        ("1:9", 5 / 6, [[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [0, 1]]),
    ],
)
def test_patterns_by_hand(either_keras, pattern, sparsity, kept):
    assert mask_of(dense(either_keras, 6, 2), COLUMNS, sparsity=sparsity, granularity=pattern) == kept


def test_what_is_counted_and_noted(either_keras):
    model = dense(either_keras, 3, 6)
    pruner = force_tf.PruneAtInit(Given(ROWS), sparsity=0.5, granularity=[1, 4])
    masks = pruner.find_masks(model, verbose=0)
    # Three of six blocks, which are ten of eighteen weights.
    assert (masks.kept, masks.total) == (10, 18)
    assert re.search(r"dense/kernel +\(3, 6\) +18 +10 +55\.5556%", masks.to_table())
    assert [(row["kept"], row["density"]) for row in pruner.history] == [(10, 10 / 18)]
    assert (pruner.granularity, masks.metadata["granularity"]) == ((1, 4), [1, 4])
    again = force_tf.PruneAtInit(Given(ROWS), sparsity=0.5, granularity=masks.metadata["granularity"])
    assert again.find_masks(model, verbose=0) == masks

    masks = force_tf.PruneAtInit("magnitude", sparsity=0.75, granularity="2:4").find_masks(model, verbose=0)
    assert (masks.kept, masks.metadata["granularity"]) == (round(18 * 0.25), "2:4")


@pytest.mark.parametrize("method", ["magnitude", "force", "iter_snip"])
def test_blocks_of_one_weight_are_weights(either_keras, method):
    model = dense(either_keras, 7, 5)
    data = np.random.default_rng(0).standard_normal((8, 7)), np.zeros((8, 5))
    by_weight, by_block = (
        force_tf.PruneAtInit(method, sparsity=0.8, steps=4, granularity=value).find_masks(model, data, "mse", verbose=0)
        for value in ("weight", (1, 1))
    )
    assert by_block == by_weight


# The axis that a pattern follows: the inputs, wherever a layer has them.


def layers_by_input_axes(keras):
    """Yields a layer, the shape of its input, the weight and the axes of its inputs, by Keras's documentation."""
    layers = keras.layers
    yield layers.Dense(6), (8,), "kernel", (0,)
    yield layers.Conv1D(6, 3), (9, 4), "kernel", (1,)
    yield layers.Conv2D(6, 3), (9, 9, 4), "kernel", (2,)
    yield layers.Conv2D(6, 3, groups=2), (9, 9, 8), "kernel", (2,)
    yield layers.Conv2DTranspose(6, 3), (9, 9, 4), "kernel", (3,)
    yield layers.Conv3DTranspose(6, 3), (9, 9, 9, 4), "kernel", (4,)
    yield layers.SeparableConv2D(6, 3), (9, 9, 4), "pointwise_kernel", (2,)
    yield layers.SeparableConv2D(6, (3, 4)), (9, 9, 5), "depthwise_kernel", (0, 1)
    yield layers.DepthwiseConv2D((3, 4), depth_multiplier=3), (9, 9, 5), "kernel", (0, 1)
    yield layers.EinsumDense("abc,cde->abde", (None, 3, 5)), (7, 4), "kernel", (0,)
    yield layers.EinsumDense("abcd,ced->abe", (None, 5)), (7, 2, 4), "kernel", (0, 2)
    yield layers.LSTM(6), (5, 4), "lstm_cell/recurrent_kernel", (0,)
    yield layers.ConvLSTM2D(6, 3), (5, 9, 9, 4), "conv_lstm_cell/kernel", (2,)
    yield layers.Embedding(8, 3), (5,), "embeddings", (0,)


def inputs_first(mask, axes):
    """A mask as (inputs, the rest)."""
    return np.moveaxis(mask, axes, range(len(axes))).reshape(math.prod(mask.shape[axis] for axis in axes), -1)


def test_patterns_follow_the_inputs(either_keras):
    for layer, shape, attribute, axes in layers_by_input_axes(either_keras):
        dtype = "int32" if isinstance(layer, either_keras.layers.Embedding) else None
        model = either_keras.Sequential([either_keras.Input(shape, dtype=dtype), layer])
        path = f"{layer.name}/{attribute}"
        # Selected by name, since some are not pruned by default.
        pruner = force_tf.PruneAtInit("random", sparsity=0.5, granularity="1:2", layers=path, seed=0)
        rows = inputs_first(pruner.find_masks(model, verbose=0)[path], axes)
        one_of_two = np.ones((len(rows) // 2, rows.shape[1]), int)
        np.testing.assert_array_equal(rows[0::2].astype(int) + rows[1::2], one_of_two, f"{type(layer).__name__} {path}")


def test_groups_do_not_go_on_at_the_next_place_of_a_window(either_keras):
    layers = either_keras.layers
    for layer, channels in ((layers.Conv2D(4, 3), 2), (layers.Conv2DTranspose(4, 3), 3)):
        model = either_keras.Sequential([either_keras.Input((9, 9, 3)), layer])
        pruner = force_tf.PruneAtInit("random", sparsity=1 / 3, granularity="1:2", seed=0)
        (mask,) = pruner.find_masks(model, verbose=0).values()
        first, second, third = np.moveaxis(mask, channels, 0)
        assert (first ^ second).all()
        assert third.all()


def test_patterns_follow_the_inputs_of_attention(either_keras):
    x = either_keras.Input((5, 8))
    model = either_keras.Model(x, either_keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x))

    def mask_of_projection(name, pattern, sparsity):
        path = f"attention/{name}/kernel"
        pruner = force_tf.PruneAtInit("random", sparsity=sparsity, granularity=pattern, layers=path, seed=0)
        return pruner.find_masks(model, verbose=0)[path]

    # Inputs, heads, their units; four of eight inputs are a group.
    query = mask_of_projection("query", "1:4", 0.75)
    np.testing.assert_array_equal(query.reshape(2, 4, 2, 3).sum(1), np.ones((2, 2, 3)))
    # Heads, their units, outputs; the six units of both heads are a group.
    output = mask_of_projection("attention_output", "1:6", 5 / 6)
    np.testing.assert_array_equal(output.reshape(6, 8).sum(0), np.ones(8))


# What does not fit.


def test_a_sparsity_that_a_pattern_does_not_allow():
    refuse(ValueError, "at least 0.5, .*lets 21 of the 42", "sparsity=0.2", sparsity=0.2, granularity="2:4")


@pytest.mark.parametrize("pattern", ["2:4", "1:3", "3:7", "5:11"])
def test_the_sparsity_in_the_message_is_the_smallest_that_works(pattern):
    model = dense(keras, 37, 13)

    def kept(sparsity):
        return force_tf.PruneAtInit("magnitude", sparsity, granularity=pattern).find_masks(model, verbose=0).kept

    with pytest.raises(ValueError, match=r"^Expected a sparsity of at least") as caught:
        kept(0.1)
    smallest = float(re.search(r"at least ([0-9.]+),", str(caught.value))[1])
    count = kept(smallest)
    with pytest.raises(ValueError, match=r"^Expected a sparsity of at least"):
        kept(1 - (count + 1) / (37 * 13))


class Scaled(keras.layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="random_normal")

    def call(self, inputs):
        return inputs * self.scale


def test_weights_with_fewer_axes_than_a_block():
    force_tf.register_prunable(Scaled, "scale")
    model = keras.Sequential([keras.Input((8,)), Scaled(name="scaled")])
    expected, received = r"granularity=\(2, 4\).*layers=", r"'scaled/scale' of shape \(8,\)"
    refuse(ValueError, expected, received, model=model, granularity=(2, 4))
    # A length of 1 asks for no axis.
    masks = force_tf.PruneAtInit(Given(range(8)), sparsity=0.5, granularity=(1, 4)).find_masks(model, verbose=0)
    assert masks["scaled/scale"].tolist() == [False] * 4 + [True] * 4
    masks = force_tf.PruneAtInit(Given(range(8)), sparsity=0.5, granularity="2:4").find_masks(model, verbose=0)
    assert masks["scaled/scale"].tolist() == [False, False, True, True] * 2


def test_a_floor_is_counted_in_blocks():
    # The four rows of (4, 6) have a block of four and one of two each; the rows of (6, 3) are six blocks of three. For
    # twelve weights five of the first are needed, since the small ones may be among them, and four of the second.
    refuse(
        ValueError,
        r"that 7 kept blocks of shape \(1, 4\) can fill; over 2 tensors it needs 9",
        "min_per_layer=12",
        min_per_layer=12,
        granularity=(1, 4),
    )


def test_a_block_of_opposite_infinities():
    scores = [[np.inf, 1, 1, 1], [np.inf, -np.inf, 1, 1]]
    with pytest.raises(ValueError, match="inf and -inf") as caught:
        mask_of(dense(keras, 2, 4), scores, sparsity=0.5, granularity=(1, 4))
    assert_one_sentence(caught.value, "add up in every block", "'dense/kernel'")
    finite_or_positive = [scores[0], [9, 9, 9, 9]]
    kept = mask_of(dense(keras, 2, 4), finite_or_positive, sparsity=0.5, granularity=(1, 4))
    assert kept == [[1, 1, 1, 1], [0, 0, 0, 0]]
