"""Whole searches for blocks and N:M patterns, against slow references that look at one group after another."""

import dataclasses
import functools
import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from force_tf import granularity, schedules


@dataclasses.dataclass(frozen=True)
class Tensor:
    path: str
    shape: tuple[int, ...]
    input_axes: tuple[int, ...] = (0,)

    @property
    def size(self):
        return math.prod(self.shape)


TENSORS = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


def make_plan(unit, tensors, steps, schedule, density, scope, floor, revive):
    densities = schedules.densities(schedule, steps, density)
    sizes = [unit.units(tensor) for tensor in tensors]
    floors = [unit.floor(tensor, floor) for tensor in tensors]
    counts = [round(sum(sizes) * value) for value in densities]
    return granularity.Plan(tensors, densities, sizes, floors, counts, scope, revive)


def search(unit, plan, scores_of):
    """Yields for each step its scores and the masks before and after it."""
    keep = np.ones(sum(tensor.size for tensor in plan.weights), bool)
    for step in range(1, len(plan.counts) + 1):
        scores, before = scores_of(keep.size), keep
        keep = unit.cut(plan, step, scores.copy(), None if plan.revive or step == 1 else before)
        yield scores, before, keep


def whole_numbers(random):
    """Scores whose sums are exact, many of them equal."""
    return lambda size: random.integers(-3, 6, size).astype(float)


def blocks_of(tensor, shape):
    """The flat indices of each block, in C order of the blocks."""
    shape = ((1,) * len(tensor.shape) + shape)[-len(tensor.shape) :]
    indices = np.arange(tensor.size).reshape(tensor.shape)
    corners = itertools.product(*(range(0, length, block) for length, block in zip(tensor.shape, shape)))
    return [indices[tuple(slice(c, c + b) for c, b in zip(corner, shape))].ravel() for corner in corners]


@settings(max_examples=200)
@given(
    shapes=TENSORS,
    block=st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
    steps=st.integers(1, 4),
    scope=st.sampled_from(["global", "layer"]),
    floor=st.sampled_from([0, 0, 1, 3, 7]),
    revive=st.booleans(),
    data=st.data(),
)
def test_blocks_are_cut_like_weights(shapes, block, steps, scope, floor, revive, data):
    tensors = [Tensor(str(i), (1,) * (len(block) - len(shape)) + shape) for i, shape in enumerate(shapes)]
    blocks, offset = [], 0
    for tensor in tensors:
        blocks.append([offset + indices for indices in blocks_of(tensor, block)])
        offset += tensor.size
    flat = list(itertools.chain(*blocks))
    unit = granularity.Blocks(block)
    assert [unit.units(tensor) for tensor in tensors] == list(map(len, blocks))
    density = data.draw(st.integers(1, len(flat))) / len(flat)
    plan = make_plan(unit, tensors, steps, schedules.linear, density, scope, floor, revive)
    if sum(plan.floors) > min(plan.counts):
        return
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    for count, (scores, before, keep) in zip(plan.counts, search(unit, plan, whole_numbers(random))):
        kept = [keep[indices].all() for indices in flat]
        assert kept == [keep[indices].any() for indices in flat], "a block is kept in part"
        assert sum(kept) == count
        assert revive or not (keep & ~before).any(), "a pruned block returned"
        for tensor, indices in zip(tensors, blocks):
            assert keep[np.concatenate(indices)].sum() >= min(floor, tensor.size)
        if scope == "global" and floor:
            continue
        for group in [flat] if scope == "global" else blocks:  # among these, the best are kept
            candidates = [indices for indices in group if revive or before[indices].all()]
            ranked = sorted(candidates, key=lambda indices: -scores[indices].sum())
            best = sum(keep[indices].all() for indices in group)
            assert all(keep[indices].all() for indices in ranked[:best])


def groups_of(tensor, m):
    """The flat indices of each group of m weights along the inputs."""
    indices = np.arange(tensor.size).reshape(tensor.shape)
    columns = np.moveaxis(indices, tensor.input_axes, range(len(tensor.input_axes)))
    columns = columns.reshape(math.prod(tensor.shape[axis] for axis in tensor.input_axes), -1)
    return [column[i : i + m] for column in columns.T for i in range(0, len(column), m)]


def most_of(groups, allowance, m):
    return [math.ceil(allowance * len(group) / m - 1e-9) for group in groups]


PATTERNS = st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (2, 5), (1, 3)])
SCORES = np.array([-np.inf, -1.0, 0.0, 0.0, 0.5, 2.0, np.inf])


@settings(max_examples=300)
@given(
    shapes=TENSORS,
    pattern=PATTERNS,
    steps=st.integers(1, 5),
    schedule=st.sampled_from([schedules.exponential, schedules.linear]),
    scope=st.sampled_from(["global", "layer"]),
    floor=st.sampled_from([0, 0, 1, 4]),
    revive=st.booleans(),
    data=st.data(),
)
def test_patterns_come_down_to_n_of_m(shapes, pattern, steps, schedule, scope, floor, revive, data):
    n, m = pattern
    axes = [data.draw(st.sampled_from([*range(len(shape))])) for shape in shapes]
    tensors = [
        Tensor(str(i), shape, (axis, *range(axis + 1, len(shape))) if data.draw(st.booleans()) else (axis,))
        for i, (shape, axis) in enumerate(zip(shapes, axes))
    ]
    unit, groups, offset = granularity.Pattern(n, m), [], 0
    for tensor in tensors:
        groups += [offset + group for group in groups_of(tensor, m)]
        offset += tensor.size
    most = sum(most_of(groups, n, m))
    assert sum(unit.limit(tensor) for tensor in tensors) == most
    density = data.draw(st.integers(1, most)) / offset
    plan = make_plan(unit, tensors, steps, schedule, density, scope, floor, revive)
    if sum(plan.floors) > min(plan.counts):
        return
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    ends = np.cumsum([tensor.size for tensor in tensors])[:-1]
    for step, (scores, before, keep) in enumerate(search(unit, plan, lambda size: random.choice(SCORES, size)), 1):
        assert keep.sum() == plan.counts[step - 1]
        assert revive or not (keep & ~before).any(), "a pruned weight returned"
        allowance = n if step == steps else max(n, math.ceil(m * plan.densities[step - 1] - 1e-9))
        for group, limit in zip(groups, most_of(groups, allowance, m)):
            assert keep[group].sum() <= limit
            candidates = group if revive else group[before[group]]
            best = sorted(candidates, key=lambda index: -scores[index])  # a stable sort: the lower index first
            assert keep[best[: keep[group].sum()]].all(), "not the best of its group"
        for tensor, part in zip(tensors, np.split(keep, ends)):
            assert part.sum() >= min(floor, sum(most_of(groups_of(tensor, m), n, m)))


def test_a_nested_search_leaves_room_for_every_later_step():
    """Groups are worth less and less, so that without regard to later steps the first ones would be kept whole."""
    tensor, unit = Tensor("column", (64, 1)), granularity.Pattern(1, 4)
    plan = make_plan(unit, [tensor], 5, schedules.linear, 0.25, "global", 0, revive=False)
    kept = [keep.reshape(16, 4).sum(1) for _, _, keep in search(unit, plan, lambda size: -np.arange(size, dtype=float))]
    assert [counts.sum() for counts in kept] == [54, 45, 35, 26, 16]
    assert [counts.max() for counts in kept] == [4, 3, 3, 2, 1]
    # One of each is for the end; ten more are for the 26 of at most two; of the 19 more for the 45 of at most three ten
    # are thirds of those groups, and the rest seconds and thirds of the next; the first nine groups stay whole.
    assert kept[0].tolist() == [4] * 9 + [3] * 5 + [2, 1]


def test_a_density_that_is_rounded_up_allows_no_further_weight():
    """1 - 0.7 is a little more than 0.3."""
    tensor, unit = Tensor("column", (40, 1)), granularity.Pattern(3, 10)
    plan = make_plan(unit, [tensor], 2, lambda step, steps, density: density, 1 - 0.7, "global", 0, revive=True)
    for _, _, keep in search(unit, plan, lambda size: -np.arange(size, dtype=float)):
        assert keep.reshape(4, 10).sum(1).tolist() == [3, 3, 3, 3]


@settings(max_examples=100)
@given(pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (2, 3)]), steps=st.integers(1, 4), data=st.data())
def test_a_nested_search_is_the_best_that_can_still_reach_its_end(pattern, steps, data):
    """Tries all subsets of eight weights: those from which every later step can be reached, down to N:M."""
    (n, m), size = pattern, 8
    tensor, unit = Tensor("column", (size, 1)), granularity.Pattern(n, m)
    groups = groups_of(tensor, m)
    density = data.draw(st.integers(1, sum(most_of(groups, n, m)))) / size
    plan = make_plan(unit, [tensor], steps, schedules.linear, density, "global", 0, revive=False)

    @functools.cache
    def choices(before, step):
        """Subsets that a step may keep of what was kept before."""
        allowance = n if step == steps else max(n, math.ceil(m * plan.densities[step - 1] - 1e-9))
        limits = most_of(groups, allowance, m)
        subsets = map(frozenset, itertools.combinations(sorted(before), plan.counts[step - 1]))
        fitting = [s for s in subsets if all(len(s & set(g.tolist())) <= limit for g, limit in zip(groups, limits))]
        return [s for s in fitting if step == steps or choices(s, step + 1)]

    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    for step, (scores, before, keep) in enumerate(search(unit, plan, whole_numbers(random)), 1):
        possible = choices(frozenset(np.flatnonzero(before).tolist()), step)
        assert frozenset(np.flatnonzero(keep).tolist()) in possible
        assert scores[keep].sum() == max(scores[list(subset)].sum() for subset in possible)
