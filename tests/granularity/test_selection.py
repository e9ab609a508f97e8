"""The cut: exactly k weights, by index among ties, against a slow reference that sorts everything."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import force_tf
from force_tf import schedules
from force_tf.granularity.selection import apportion, select
from force_tf.support import blocks
from force_tf.support import top_k as selection
from force_tf.support.top_k import top_k

LARGE = (1 << 17) + 12_345  # arrays from 2^17 on are cut by another path
SCORES = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1e-30, 1.0, 2.0, np.inf]) | st.floats(allow_nan=False, width=32)


def reference_top_k(scores, k, eligible=None):
    """The first k eligible indices in the order of falling scores; among equal scores the lower index comes first."""
    order = np.argsort(-scores, kind="stable")
    order = order if eligible is None else order[eligible[order]]
    keep = np.zeros(len(scores), bool)
    keep[order[:k]] = True
    return keep


def reference_global(scores, sizes, k, floor, eligible):
    """First the best of each tensor, then the best of the rest, one weight after another."""
    order = [i for i in np.argsort(-scores, kind="stable") if eligible[i]]
    tensor_of = np.repeat(np.arange(len(sizes)), sizes)
    taken = []
    for tensor in range(len(sizes)):
        taken += [i for i in order if tensor_of[i] == tensor][:floor]
    taken += [i for i in order if i not in set(taken)][: k - len(taken)]
    return np.isin(np.arange(len(scores)), taken)


@st.composite
def cuts(draw):
    """Scores of several tensors, some eligible, and a k that a floor allows."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    total = sum(sizes)
    scores = np.array(
        draw(st.lists(SCORES, min_size=total, max_size=total)), draw(st.sampled_from([np.float32, float]))
    )
    eligible = np.array(draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    floor = draw(st.integers(0, 4))
    needed = sum(min(floor, int(part.sum())) for part in np.split(eligible, np.cumsum(sizes)[:-1]))
    k = draw(st.integers(needed, int(eligible.sum())))
    return scores, sizes, k, floor, eligible


@settings(max_examples=300)
@given(cut=cuts())
def test_a_global_cut_equals_the_reference(cut):
    scores, sizes, k, floor, eligible = cut
    keep = select(scores, sizes, k, min_per_layer=floor, eligible=eligible)
    assert keep.sum() == k
    np.testing.assert_array_equal(keep, reference_global(scores, sizes, k, floor, eligible))


@settings(max_examples=300)
@given(cut=cuts())
def test_a_cut_per_layer_takes_the_best_of_every_tensor(cut):
    scores, sizes, k, floor, eligible = cut
    keep = select(scores, sizes, k, scope="layer", min_per_layer=floor, eligible=eligible)
    assert keep.sum() == k
    ends = np.cumsum(sizes)[:-1]
    for kept, values, allowed in zip(*(np.split(array, ends) for array in (keep, scores, eligible))):
        assert kept.sum() >= min(floor, allowed.sum())
        np.testing.assert_array_equal(kept, reference_top_k(values, kept.sum(), allowed))


@settings(max_examples=200)
@given(scores=st.lists(SCORES, max_size=60), data=st.data())
def test_top_k_equals_the_reference(scores, data):
    scores = np.array(scores, np.float32)
    before = scores.copy()
    k = data.draw(st.integers(0, len(scores)))
    np.testing.assert_array_equal(top_k(scores, k), reference_top_k(scores, k))
    np.testing.assert_array_equal(scores, before, "the scores were changed")


def test_among_equal_scores_the_lower_index_wins():
    scores = np.array([1.0, 2.0, 2.0, 1.0, 2.0, 1.0], np.float32)
    assert np.flatnonzero(top_k(scores, 2)).tolist() == [1, 2]
    assert np.flatnonzero(top_k(scores, 4)).tolist() == [0, 1, 2, 4]
    eligible = np.array([True, False, True, True, True, True])
    assert np.flatnonzero(top_k(scores, 3, eligible)).tolist() == [0, 2, 4]


def test_ineligible_scores_are_never_kept_even_when_all_others_are_minus_infinity():
    scores = np.array([np.inf, -np.inf, -np.inf, 5.0], np.float32)
    keep = top_k(scores, 1, np.array([False, True, True, False]))
    assert np.flatnonzero(keep).tolist() == [1]


def large_scores():
    random = np.random.default_rng(0)
    normal = random.standard_normal(LARGE).astype(np.float32)
    few = random.integers(0, 4, LARGE).astype(np.float32)
    # The cut brackets its threshold by a sample: here are the places that it draws.
    sampled = np.isin(np.arange(LARGE), np.random.default_rng(0).integers(LARGE, size=1 << 15))
    return {
        "normal": normal,
        "float64": random.standard_normal(LARGE),
        "all_equal": np.full(LARGE, 0.5, np.float32),
        "all_zero_but_one": (np.arange(LARGE) == 77_777).astype(np.float32),
        "mostly_zero": np.where(normal > 2, normal, 0).astype(np.float32),
        "few_values": few,
        "rising": np.arange(LARGE, dtype=np.float32),
        "falling": np.arange(LARGE, dtype=np.float32)[::-1],
        "heavy_tail": np.exp(8 * normal),
        "all_infinite": np.full(LARGE, np.inf, np.float32),
        "all_minus_infinity": np.full(LARGE, -np.inf, np.float32),
        "infinite_ends": np.where(few == 0, -np.inf, np.where(few == 3, np.inf, normal)).astype(np.float32),
        "sample_too_low": np.where(sampled, -100, normal).astype(np.float32),
        "sample_too_high": np.where(sampled, 100, normal).astype(np.float32),
        # A few needles that a sample of the scores hardly ever meets.
        "needles": np.where(np.arange(LARGE) % 40_000 == 7, normal + 100, -np.inf).astype(np.float32),
    }


@pytest.mark.parametrize("name", large_scores().keys())
def test_large_arrays_equal_the_reference(name):
    scores = large_scores()[name]
    before = scores.copy()
    for k in (1, 2, 5, 100, LARGE // 100, LARGE // 4, LARGE // 2, LARGE - 100, LARGE - 1, LARGE):
        keep = top_k(scores, k)
        assert keep.sum() == k
        np.testing.assert_array_equal(keep, reference_top_k(scores, k), f"k={k}")
    # Where few are eligible the cut takes another path; so it does where the eligible scores are not like the others.
    marks = np.random.default_rng(1).random(LARGE)
    for eligible in (marks < 0.05, marks < 0.4, marks < 0.99, scores > np.median(scores), scores <= np.median(scores)):
        count = int(eligible.sum())
        for k in {min(k, count) for k in (0, 1, 1000, count // 2, count - 1, count) if k >= 0}:
            keep = top_k(scores, k, eligible)
            assert keep.sum() == k
            np.testing.assert_array_equal(keep, reference_top_k(scores, k, eligible), f"k={k} of {count} eligible")
    np.testing.assert_array_equal(scores, before, "the scores were changed")


@settings(max_examples=400)
@given(cut=cuts(), samples=st.integers(1, 8), few=st.integers(1, 5), block=st.integers(1, 9))
def test_any_sample_leads_to_the_same_cut(cut, samples, few, block):
    """The path of large arrays, with samples so small that they often miss the threshold."""
    scores, _, k, _, eligible = cut
    small = mock.patch.multiple(selection, _SMALL=2, _SAMPLES=samples, _FEW=few)
    with small, mock.patch.object(blocks, "BLOCK", block):
        np.testing.assert_array_equal(top_k(scores, k, eligible), reference_top_k(scores, k, eligible))
        np.testing.assert_array_equal(top_k(scores, k), reference_top_k(scores, k))


@settings(max_examples=300)
@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=12), data=st.data())
def test_shares_without_bounds_differ_from_the_exact_ones_by_less_than_one(sizes, data):
    sizes = np.array(sizes)
    k = data.draw(st.integers(0, int(sizes.sum())))
    counts = apportion(k, sizes, np.zeros_like(sizes), sizes)
    exact = k * sizes / sizes.sum()
    assert counts.sum() == k
    assert (np.abs(counts - exact) < 1).all(), f"{counts} for {exact}"


@settings(max_examples=300)
@given(data=st.data())
def test_shares_within_bounds_sum_up_and_stay_within_them(data):
    n = data.draw(st.integers(1, 8))
    sizes = np.array(data.draw(st.lists(st.integers(1, 50), min_size=n, max_size=n)))
    caps = np.array([data.draw(st.integers(0, int(size))) for size in sizes])
    floors = np.array([data.draw(st.integers(0, int(cap))) for cap in caps])
    k = data.draw(st.integers(int(floors.sum()), int(caps.sum())))
    counts = apportion(k, sizes, floors, caps)
    assert counts.sum() == k
    assert (floors <= counts).all()
    assert (counts <= caps).all()
    # Fair: where neither bound holds, no tensor's fraction is off another's by more than the rounding of both.
    free = (counts > floors) & (counts < caps)
    fractions, rounding = counts[free] / sizes[free], 1 / sizes[free]
    if free.any():
        assert (fractions - rounding).max() <= (fractions + rounding).min() + 1e-9, f"{counts} of {sizes}"


@pytest.mark.parametrize(
    ("k", "sizes", "floor", "expected"),
    [
        (5, [10, 10, 10], 0, [2, 2, 1]),  # remainders are equal: the earlier tensors get the units
        (7, [10, 20, 30], 0, [1, 2, 4]),  # 1.17, 2.33 and 3.5
        (10, [1000, 10, 5], 2, [6, 2, 2]),  # two floors bind
        (3, [1, 1, 98], 0, [0, 0, 3]),
        (11, [3, 3, 100], 5, [3, 3, 5]),  # a tensor smaller than its floor keeps all it has
    ],
)
def test_quotas_by_hand(k, sizes, floor, expected):
    keep = select(np.zeros(sum(sizes)), sizes, k, scope="layer", min_per_layer=floor)
    assert [int(part.sum()) for part in np.split(keep, np.cumsum(sizes)[:-1])] == expected


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    steps=st.integers(1, 12),
    scope=st.sampled_from(["global", "layer"]),
    schedule=st.sampled_from([schedules.exponential, schedules.linear]),
    floor=st.integers(0, 3),
    revive=st.booleans(),
    data=st.data(),
)
def test_whole_iterations_keep_exactly_k_at_every_step(sizes, steps, scope, schedule, floor, revive, data):
    total = sum(sizes)
    needed = max(sum(min(floor, size) for size in sizes), 1)
    density = data.draw(st.integers(needed, total)) / total
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    keep = np.ones(total, bool)
    for value in schedules.densities(schedule, steps, density):
        k, before = round(total * value), keep
        scores = random.choice([0.0, 1.0, -np.inf, np.inf, random.random()], total)
        keep = select(scores, sizes, k, scope=scope, min_per_layer=floor, eligible=None if revive else before)
        assert keep.sum() == k
        assert revive or not (keep & ~before).any(), "a pruned weight returned"
        for part, size in zip(np.split(keep, np.cumsum(sizes)[:-1]), sizes):
            assert part.sum() >= min(floor, size)


@pytest.mark.parametrize("k", [-1, 4])
def test_top_k_refuses_a_count_that_cannot_be(k):
    with pytest.raises(ValueError, match=rf"^Expected 0 <= k <= 3, .*Received: k={k}$"):
        top_k(np.zeros(3), k)


def test_more_than_is_eligible_is_refused():
    with pytest.raises(ValueError, match=r"^Expected at least 2 weights that may be kept\. Received: 1$"):
        select(np.zeros(3), [3], 2, eligible=np.array([True, False, False]))


def test_floors_that_need_too_much_are_refused():
    with pytest.raises(ValueError, match=r"^Expected a floor that the 3 kept weights .*Received: min_per_layer=2$"):
        select(np.zeros(8), [4, 4], 3, min_per_layer=2)


@pytest.mark.parametrize("scheme", ["random", "magnitude"])
def test_erk_of_a_search(either_keras, scheme):
    layers = either_keras.layers
    model = either_keras.Sequential(
        [
            either_keras.Input((5, 5, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(20, name="hidden"),
            layers.Dense(2, name="logits"),
        ]
    )
    masks = force_tf.PruneAtInit(scheme, sparsity=0.9, scope="erk", seed=0).find_masks(model, verbose=0)
    # 108, 720 and 40 weights; 87 are kept, in proportion to 3 + 3 + 3 + 4, 36 + 20 and 20 + 2.
    assert [int(mask.sum()) for mask in masks.values()] == [12, 54, 21]
    assert masks.metadata["scope"] == "erk"


def test_erk_goes_with_no_channels():
    with pytest.raises(ValueError, match=r'^Expected scope="global" or "layer" for whole channels'):
        force_tf.PruneAtInit("magnitude", scope="erk", granularity="channel")
