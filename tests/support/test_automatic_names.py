"""Masks of another build of a network: the message names what differs, and what helps."""

import re

import numpy as np
import pytest

import force_tf
from force_tf import Masks
from force_tf.support.automatic_names import first_renumbered

ADVICE = r"Keras numbers layers without a name .*give layers names, or call `clear_session\(\)`"


def unnamed(library):
    layers = library.layers
    inner = library.Sequential([library.Input((4,)), layers.Dense(3), layers.Dense(3)])
    return library.Sequential([library.Input((4,)), inner, layers.Dense(2)])


def test_two_builds_of_a_network(either_keras):
    first, second = unnamed(either_keras), unnamed(either_keras)
    masks = [force_tf.PruneAtInit("random", 0.5, seed=0).find_masks(each, verbose=0) for each in (first, second)]
    one, other = (next(iter(each)) for each in masks)
    assert one != other
    with pytest.raises(ValueError, match=rf"model has '{one}' where there is a mask for '{other}'\. {ADVICE}"):
        force_tf.apply_masks(first, masks[1])
    for combine in (masks[0].intersection_over_union, masks[0].__or__):
        with pytest.raises(ValueError, match=rf"^Expected .*{ADVICE}.* Received: masks for '{one}' and '{other}'$"):
            combine(masks[1])
    # What the message advises:
    either_keras.backend.clear_session()
    third = unnamed(either_keras)
    either_keras.backend.clear_session()
    force_tf.apply_masks(
        unnamed(either_keras), force_tf.PruneAtInit("random", 0.5, seed=0).find_masks(third, verbose=0)
    )


def test_what_a_search_left_out_bears_other_numbers_too(either_keras):
    first, second = unnamed(either_keras), unnamed(either_keras)
    selected = [second.layers[0].layers[0].name, second.layers[-1].name]
    masks = force_tf.PruneAtInit("random", 0.5, layers=selected, seed=0).find_masks(second, verbose=0)
    assert len(masks) == 2
    with pytest.raises(ValueError, match=ADVICE):
        force_tf.apply_masks(first, masks)


def test_so_do_weights_that_need_no_mask(either_keras):
    def build():
        layers = either_keras.layers
        return either_keras.Sequential(
            [either_keras.Input((4,), dtype="int32"), layers.Embedding(5, 3), layers.Flatten(), layers.Dense(2)]
        )

    first, second = build(), build()
    masks = force_tf.PruneAtInit("random", 0.5, layers=".*", seed=0).find_masks(second, verbose=0)
    assert len(masks) == 2
    with pytest.raises(ValueError, match=ADVICE):
        force_tf.apply_masks(first, masks)


@pytest.mark.parametrize(
    ("shapes", "others", "expected"),
    [
        ({"dense/kernel": (2, 2)}, {"dense_1/kernel": (2, 2)}, ("dense/kernel", "dense_1/kernel")),
        ({"dense/kernel": (2, 2)}, {"dense_1/kernel": (2, 3)}, None),
        ({"dense/kernel": (2, 2)}, {"dense_1/bias": (2, 2)}, None),
        ({"dense/kernel": (2, 2)}, {"conv_1/kernel": (2, 2)}, None),
        ({"dense/kernel": (2, 2), "out/kernel": (2, 1)}, {"dense_1/kernel": (2, 2)}, None),
        ({"dense/kernel": (2, 2)}, {"dense_1/kernel": (2, 2), "dense_2/kernel": (2, 2)}, None),
        # A path that both have, of other layers.
        (
            {"d_1/kernel": (4, 3), "d_2/kernel": (3, 2)},
            {"d/kernel": (4, 3), "d_1/kernel": (3, 2)},
            ("d_1/kernel", "d/kernel"),
        ),
        (
            {"net/head/kernel": (2,), "net/rnn_1/cell_1/kernel": (1,)},
            {"net/head/kernel": (2,), "net/rnn_12/cell_3/kernel": (1,)},
            ("net/rnn_1/cell_1/kernel", "net/rnn_12/cell_3/kernel"),
        ),
    ],
)
def test_what_counts_as_another_number(shapes, others, expected):
    assert first_renumbered(shapes, others) == expected


def test_masks_that_fit_in_another_order_get_no_hint():
    masks = Masks({"dense_2/kernel": np.ones(3, bool), "dense_1/kernel": np.ones(3, bool)})
    assert masks.first_difference({"dense_1/kernel": (3,), "dense_2/kernel": (3,)}) is None
    assert (masks & Masks(dict(reversed(list(masks.items()))))) == masks


def test_other_differences_are_told_as_before():
    masks = Masks({"dense_1/kernel": np.ones((2, 2), bool)})
    assert not re.search(ADVICE, masks.first_difference({"dense/kernel": (2, 3)}))
    with pytest.raises(
        ValueError, match=r"Received: masks of different shapes for 'dense_1/kernel', \(2, 2\) and none$"
    ):
        masks & Masks({"dense": np.ones((2, 2), bool)})
