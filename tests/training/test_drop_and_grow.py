"""The moves of masks against traces of the authors' own codes, and against examples worked out by hand."""

import math

import numpy as np
import pytest

from force_tf import schedules
from force_tf.criteria.pool import pooled
from force_tf.granularity.selection import apportion, erk_shares, select
from force_tf.training.drop_and_grow import Exchange, update
from helpers.golden_training import SIZES, TOTAL, updates


def cut_to(scores, count, sizes=SIZES, free=False, **options):
    """Returns a cut that keeps `count` weights: of those kept before, or (free) of all."""
    return lambda kept: select(scores, sizes, count, eligible=None if free else kept, **options)


def exact_layers(scores, sparsity, minimum=1):
    """Returns a cut that rounds the count of each layer by itself, as tfmot and JaxPruner do."""

    def cut(kept):
        parts, end = [], 0
        for size in SIZES:
            part = scores[end : end + size]
            parts.append(select(part, [size], max(minimum, round(float(size * (1 - sparsity))))))
            end += size
        return np.concatenate(parts)

    return cut


def check(rows, new_masks):
    checked = 0
    for row in rows:
        expected, found = row["after"], new_masks(row)
        assert np.array_equal(found, expected), f"update {checked}: {np.flatnonzero(found != expected)} differ"
        checked += 1
    assert checked > 2


def test_granet_cuts_globally_and_swaps_by_layer():
    def new_masks(row):
        cut = None if row["kept"] < 0 else cut_to(np.abs(row["weights"]), row["kept"])
        between = row["before"] if cut is None else cut(row["before"])
        assert np.array_equal(between, row["cut"])
        # What the cut has pruned has the value zero by then.
        magnitudes = np.abs(row["weights"] * between)
        swap = Exchange(magnitudes, np.abs(row["gradients"]), row["fraction"], round_up=True)
        return update(row["before"], SIZES, cut=cut, swap=swap).kept

    for name in ("granet_dense", "granet_repo_dst_rigl_itop", "granet_repo_gmp"):
        check(updates(name), new_masks)


def test_rigl():
    def new_masks(row):
        fraction = np.float32(0.15 * (1 + math.cos(math.pi * min(row["step"], 40) / 40)))
        swap = Exchange(np.abs(row["weights"]), np.abs(row["gradients"]), float(fraction))
        return update(row["before"], SIZES, swap=swap).kept

    check(updates("rigl_tf1_rigl"), new_masks)


def test_rigl_of_jaxpruner():
    def new_masks(row):
        fraction = 0.15 * (1 + math.cos(math.pi * min(row["step"], 40) / 40))
        masks, end = [], 0
        for size in SIZES:  # this code rounds the count that stays
            part = slice(end, end + size)
            end += size
            kept = int(row["before"][part].sum())
            stays = max(1, round(size * (kept / size) * (1 - fraction)))
            swap = Exchange(np.abs(row["weights"][part]), np.abs(row["gradients"][part]), (kept - stays) / kept)
            masks.append(update(row["before"][part], [size], swap=swap).kept)
        return np.concatenate(masks)

    check(updates("jaxpruner_rigl"), new_masks)


def test_set_drops_what_its_authors_drop():
    checked = 0
    for row in updates("rigl_tf1_set"):
        fraction = float(np.float32(0.15 * (1 + math.cos(math.pi * row["step"] / 40))))
        growth = np.random.default_rng(0).random(TOTAL)
        found = update(row["before"], SIZES, swap=Exchange(np.abs(row["weights"]), growth, fraction)).kept
        # Both may grow again what they drop: so what both have lost is among the same candidates.
        swap = Exchange(np.abs(row["weights"]), np.where(row["before"], -1.0, growth), fraction)
        dropped = row["before"] & ~update(row["before"], SIZES, swap=swap).kept
        assert not (row["before"] & ~row["after"] & ~dropped).any()
        assert not (row["before"] & ~found & ~dropped).any()
        for size, end in zip(SIZES, np.cumsum(SIZES)):
            assert found[end - size : end].sum() == row["after"][end - size : end].sum()
        checked += 1
    assert checked == 8


def test_magnitude_by_layer():
    def jaxpruner(row):
        sparsity = 0.8 * (1 - (1 - min(row["step"] + 1 - 3, 27) / 27) ** 3)
        return update(row["before"], SIZES, cut=exact_layers(np.abs(row["weights"]), sparsity)).kept

    def tfmot(row):
        density = schedules.cubic((row["step"] - 3) // 3, 5, 0.25)
        return update(row["before"], SIZES, cut=exact_layers(np.abs(row["weights"]), 1 - density)).kept

    check(updates("jaxpruner_magnitude_polynomial"), jaxpruner)
    check(updates("tfmot_polynomial"), tfmot)


def test_magnitude_over_all_layers():
    def new_masks(row):
        parts = np.split(np.abs(row["weights"]), np.cumsum(SIZES)[:-1])
        scores = np.concatenate([part / (np.linalg.norm(part) + 1e-8) for part in parts])
        sparsity = 0.8 * (1 - (1 - min(row["step"] + 1 - 3, 27) / 27) ** 3)
        count = max(1, round(TOTAL * (1 - sparsity)))
        return update(row["before"], SIZES, cut=cut_to(scores, count, free=True)).kept

    check(updates("jaxpruner_global_magnitude"), new_masks)


def test_straight_through_magnitude_lets_weights_return():
    returned, before = 0, np.ones(TOTAL, bool)
    for step, row in enumerate(updates("jaxpruner_ste_magnitude")):
        sparsity = 0.8 * (1 - (1 - min(step + 1, 30) / 30) ** 3)
        found = update(before, SIZES, cut=exact_layers(np.abs(row["weights"]), sparsity)).kept
        assert np.array_equal(found, row["after"]), step
        returned += int((found & ~before).sum())
        before = found
    assert returned > 20


def test_snip_it():
    plan = [1 - schedules.snip_it(step, 7, 0.1) for step in range(1, 8)]

    def new_masks(row):
        count = int(TOTAL * (1 - row["plan"])) - 1  # this code keeps one less
        return update(row["before"], SIZES, cut=cut_to(row["scores"], count)).kept

    for name in ("snipit_before", "snipit_during"):
        check(updates(name), new_masks)
        np.testing.assert_allclose([row["plan"] for row in updates(name)], plan)


def test_fggp():
    def new_masks(row):
        kept = int(row["before"].sum())
        scores = pooled(np.abs(row["gradients"]), np.abs(row["weights"]), row["before"], 0.5)
        return update(row["before"], SIZES, cut=cut_to(scores, kept - row["to_prune"])).kept

    check(updates("fggp"), new_masks)


def test_lottery_tickets():
    def new_masks(row):
        kept = int(row["before"].sum())
        return update(row["before"], SIZES, cut=cut_to(np.abs(row["weights"]), kept - math.ceil(0.2 * kept) - 1)).kept

    check(updates("open_lth_level_rewind0"), new_masks)


# Examples worked out by hand.

THETA = np.array([0.5, -0.1, 0.3, -0.05, 0.8, -0.6, 0.02, 0.2])
GRADIENT = np.array([0.1, 0.9, 0.2, 0.3, -0.4, 0.05, -0.35, 0.6])


def marks(*indices, size=8):
    return np.isin(np.arange(size), indices)


def test_gmp_by_hand():
    theta = np.array([0.9, -0.1, 0.4, -0.7, 0.2, 0.05, -0.3, 0.6])
    kept, found = np.ones(8, bool), []
    for step in range(5):
        count = round(8 * schedules.cubic(step, 4, 0.25))
        kept = update(kept, [8], cut=cut_to(np.abs(theta), count, [8])).kept
        found.append(set(np.flatnonzero(kept)))
    assert found == [set(range(8)), {0, 2, 3, 6, 7}, {0, 3, 7}, {0, 3}, {0, 3}]


def test_granet_by_hand():
    cut = cut_to(np.abs(THETA), 4, [8])
    assert np.array_equal(cut(np.ones(8, bool)), marks(0, 2, 4, 5))
    swap = Exchange(np.abs(THETA * marks(0, 2, 4, 5)), np.abs(GRADIENT), 0.5, round_up=True)
    after, survivors = update(np.ones(8, bool), [8], cut=cut, swap=swap)
    assert np.array_equal(after, marks(1, 4, 5, 7))
    assert np.array_equal(survivors, marks(4, 5)), "the cut has made 1 and 7 zero"


def test_rigl_by_hand():
    theta = np.array([0.5, -0.1, 0.3, -0.05, 0, 0, 0, 0])
    before = marks(0, 1, 2, 3)
    after, survivors = update(before, [8], swap=Exchange(np.abs(theta), np.abs(GRADIENT), 0.5))
    assert np.array_equal(after, marks(0, 1, 2, 7))
    assert np.array_equal(survivors, marks(0, 1, 2)), "1 is dropped and grown at once: it keeps its value"


def test_fggp_by_hand():
    theta = np.array([0.9, -0.1, 0.4, -0.7, 0.2, 0.05, -0.3, 0.6])
    gradient = np.array([0.01, 0.5, 0.02, 0.3, 0.04, 0.6, 0.03, 0.2])
    scores = pooled(gradient, np.abs(theta), np.ones(8, bool), 0.5)
    kept = update(np.ones(8, bool), [8], cut=cut_to(scores, 6, [8])).kept
    assert np.array_equal(kept, ~marks(4, 6)), "by magnitude alone 1 and 5 would go"
    # Where more are to go than there are candidates, the others follow by magnitude.
    kept = update(np.ones(8, bool), [8], cut=cut_to(scores, 2, [8])).kept
    assert np.array_equal(kept, marks(3, 7))


def test_flipout_by_hand():
    theta, flips = np.array([0.5, -0.4, 0.3, 0.1, -0.6, 0.2]), np.array([4, 0, 1, 0, 9, 1])
    kept = update(np.ones(6, bool), [6], cut=cut_to(theta**2 / (flips + 1), 3, [6])).kept
    assert np.array_equal(kept, marks(0, 1, 2, size=6))


@pytest.mark.parametrize(
    ("density", "expected"),
    [(0.1, (0.097831, 0.019811, 0.172353)), (0.5, (0.489154, 0.099054, 0.861767))],
)
def test_erk_densities(density, expected):
    shapes = [(3, 3, 3, 16), (3, 3, 16, 32), (512, 10)]
    sizes = np.array([math.prod(shape) for shape in shapes])
    counts = apportion(round(density * sizes.sum()), erk_shares(shapes), np.zeros(3), sizes)
    assert counts.sum() == round(density * sizes.sum())
    assert np.all(np.abs(counts - sizes * expected) < 1.01), "the exact number, rounded"


def test_a_layer_that_overflows_is_dense_and_the_others_share_the_rest():
    # Without windows, as of the older Erdős–Rényi rule: the first layer has more to come than it has.
    sizes, shares = np.array([432, 4608, 5120]), np.array([3 + 16, 16 + 32, 512 + 10]) * np.array([9, 9, 1])
    counts = apportion(round(0.5 * sizes.sum()), shares, np.zeros(3), sizes)
    assert np.all(np.abs(counts - sizes * (1, 0.456761, 0.496728)) < 1.01)


def test_erk_cut_keeps_the_best_of_each_layer():
    shapes, rng = [(2, 3), (6, 6), (6, 2)], np.random.default_rng(0)
    sizes = [math.prod(shape) for shape in shapes]
    scores = rng.random(sum(sizes))
    kept = select(scores, sizes, 20, scope="erk", shares=erk_shares(shapes))
    counts = [int(part.sum()) for part in np.split(kept, np.cumsum(sizes)[:-1])]
    assert counts == [4, 10, 6]  # 20 in proportion to 5 : 12 : 8 is 4, 9.6, 6.4
    for part, marked in zip(np.split(scores, np.cumsum(sizes)[:-1]), np.split(kept, np.cumsum(sizes)[:-1])):
        assert part[marked].min() > part[~marked].max()


def test_nothing_moves_without_a_cut_or_a_fraction():
    before = marks(0, 3, 5)
    assert np.array_equal(update(before, [8]).kept, before)
    assert np.array_equal(update(before, [8], swap=Exchange(np.abs(THETA), np.abs(GRADIENT), 0.0)).kept, before)


@pytest.mark.parametrize("round_up", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 2, 7, 8])
def test_swaps_of_layers_that_are_empty_or_full(kept, round_up):
    before = np.arange(8) < kept
    after = update(before, [8], swap=Exchange(np.abs(THETA), np.abs(GRADIENT), 0.5, round_up)).kept
    assert after.sum() == kept
    count = Exchange(THETA, GRADIENT, 0.5, round_up).count(kept)
    assert count == (math.ceil if round_up else math.floor)(kept / 2)


def test_the_arguments_stay_as_they_are():
    before = marks(0, 1, 2, 3)
    update(before, [8], swap=Exchange(np.abs(THETA), np.abs(GRADIENT), 0.5))
    assert np.array_equal(before, marks(0, 1, 2, 3))
