"""The cut of accelerators, on the CPU: the same weights as the host's, whatever the scores."""

import functools

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from force_tf.granularity import device_selection
from force_tf.granularity.selection import quotas, select

DTYPES = {np.float16: np.uint16, ml_dtypes.bfloat16: np.uint16, np.float32: np.uint32, np.float64: np.uint64}
SIZES = ([1], [17, 0, 1, 7])  # few, since each is traced once


@functools.cache
def traced(jit_compile=False):
    return tf.function(device_selection.select, autograph=False, jit_compile=jit_compile)


def cut(scores, sizes, k, eligible=None, *, jit_compile=False, with_quotas=True, **options):
    """The weights that the device keeps, flat."""
    ends = np.cumsum(sizes)[:-1]
    eligible = np.ones(len(scores), bool) if eligible is None else eligible
    available = np.array([part.sum() for part in np.split(eligible, ends)])
    counts = quotas(sizes, k, available, **options)
    keep = traced(jit_compile)(
        [tf.constant(part) for part in np.split(scores, ends)],
        tf.constant(counts, tf.int64) if with_quotas else None,
        tf.constant(k - counts.sum(), tf.int64),
        [tf.constant(part) for part in np.split(eligible, ends)],
    )
    return np.concatenate([part.numpy() for part in keep])


@st.composite
def cuts(draw, dtypes=tuple(DTYPES), all_sizes=SIZES):
    """Scores of any bits but those of NaN, many of them equal, of which some may be kept."""
    dtype, sizes = draw(st.sampled_from(dtypes)), draw(st.sampled_from(all_sizes))
    integers = DTYPES[dtype]
    bits = st.integers(0, np.iinfo(integers).max) | st.sampled_from([0, 1, 2, np.iinfo(integers).max // 2 + 1])
    few = np.array(draw(st.lists(bits, min_size=1, max_size=8)), integers).view(dtype)
    few = np.concatenate([few[~np.isnan(few)], np.array([0.0, -0.0, np.inf, -np.inf, 1.0], dtype)])
    places = draw(st.lists(st.integers(0, len(few) - 1), min_size=sum(sizes), max_size=sum(sizes)))
    eligible = np.array(draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes))))
    floor = draw(st.integers(0, 4))
    needed = sum(min(floor, int(part.sum())) for part in np.split(eligible, np.cumsum(sizes)[:-1]))
    return few[places], sizes, draw(st.integers(needed, int(eligible.sum()))), floor, eligible


@settings(max_examples=300)
@given(cut_=cuts(), scope=st.sampled_from(["global", "layer", "erk"]))
def test_the_device_keeps_what_the_host_keeps(cut_, scope):
    scores, sizes, k, floor, eligible = cut_
    options = {"scope": scope, "min_per_layer": floor, "shares": np.arange(1.0, len(sizes) + 1)}
    keep = cut(scores, sizes, k, eligible, **options)
    assert keep.sum() == k
    wide = scores if scores.dtype == np.float64 else scores.astype(np.float32)
    np.testing.assert_array_equal(keep, select(wide, sizes, k, eligible=eligible, **options))


@settings(max_examples=60)
@given(cut_=cuts((np.float32,), SIZES[-1:]))
def test_without_floors_all_are_compared_at_once(cut_):
    scores, sizes, k, _, eligible = cut_
    keep = cut(scores, sizes, k, eligible, with_quotas=False)
    np.testing.assert_array_equal(keep, select(scores, sizes, k, eligible=eligible))


@settings(max_examples=60)
@given(data=st.data(), dtype=st.sampled_from([np.float32, np.float64]), floor=st.integers(0, 3))
def test_compiled_by_xla_it_is_the_same(data, dtype, floor):
    sizes = [11, 1, 30]
    values = [-np.inf, -1.0, -0.0, 0.0, 5e-324, 1e-45, -1e-45, 1e-40, 1.0, np.inf]
    scores = np.array(data.draw(st.lists(st.sampled_from(values), min_size=42, max_size=42)), dtype)
    k = data.draw(st.integers(3 * floor, 42))
    keep = cut(scores, sizes, k, jit_compile=True, min_per_layer=floor)
    np.testing.assert_array_equal(keep, select(scores, sizes, k, min_per_layer=floor))


def test_among_equal_scores_the_lower_index_wins_over_all_tensors():
    # By hand: 2 2 | 1 2 2 | 2: four of the five twos, the last one falls.
    scores = np.array([2, 2, 1, 2, 2, 2], np.float32)
    assert np.flatnonzero(cut(scores, [2, 3, 1], 4, with_quotas=False)).tolist() == [0, 1, 3, 4]
    assert np.flatnonzero(cut(scores, [2, 3, 1], 3, with_quotas=False)).tolist() == [0, 1, 3]
    # With a floor of one, the last tensor's comes before the second of the second.
    assert np.flatnonzero(cut(scores, [2, 3, 1], 4, min_per_layer=1)).tolist() == [0, 1, 3, 5]


def test_integers_order_as_floats_do():
    scores = np.array([-np.inf, -1, -1e-45, -0.0, 0.0, 1e-45, 1e-38, 1, np.inf], np.float32)
    keys = device_selection.ordered_integers(tf.constant(scores)).numpy()
    assert keys[3] == keys[4] == 0
    assert (np.diff(np.delete(keys, 3).astype(np.int64)) > 0).all(), keys


@pytest.mark.parametrize("values", ["distinct", "few", "half zeros"])
@pytest.mark.parametrize("size", [10**5, pytest.param(10**7, marks=pytest.mark.slow)])
def test_large_arrays(size, values):
    scores = np.abs(np.random.default_rng(0).standard_normal(size, np.float32))
    if values == "few":
        scores = np.round(scores)
    elif values == "half zeros":
        scores = np.where(scores > 0.67, scores, 0)
    sizes = [size // 2, size // 3, size - size // 2 - size // 3]
    for k in (1, size // 100, size // 2 + 7, size - 1):
        np.testing.assert_array_equal(cut(scores, sizes, k, with_quotas=False), select(scores, sizes, k))


@pytest.mark.parametrize(("dtype", "passes"), [(tf.float32, 34), (tf.float64, 66)])
def test_passes_over_the_scores_are_as_many_as_docs_scale_says(dtype, passes):
    """Counted in the traced graph: a bit of a score each and two, and a bit of an index each where ties are cut."""
    sizes = [1000, 24, 500]
    specs = [tf.TensorSpec([size], dtype) for size in sizes]
    numbers = tf.TensorSpec([len(sizes)], tf.int64), tf.TensorSpec([], tf.int64)
    eligible = [tf.TensorSpec([size], tf.bool) for size in sizes]
    assert counted_passes(specs, None, numbers[1]) == (passes, 10)  # 1000 has ten bits
    assert counted_passes(specs, None, numbers[1], eligible) == (passes, 10)
    assert counted_passes(specs, numbers[0], None) == (passes, 10)
    assert counted_passes(specs, *numbers) == (2 * passes, 20)  # floors first


def counted_passes(scores, quotas, rest, eligible=None):
    """Returns how often a cut counts over all scores, in any case and at most more where equal scores meet at it."""
    traced = tf.function(device_selection.select, autograph=False).get_concrete_function(scores, quotas, rest, eligible)
    graph = traced.graph.as_graph_def()
    bodies = {each.signature.name: each.node_def for each in graph.library.function}
    constants = {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in graph.node if node.op == "Const"}
    sums, maybe = sum_nodes(traced.graph.get_operations(), scores), 0
    for loop in (node for node in graph.node if node.op == "StatelessWhile"):
        in_body = [node for node in bodies[loop.attr["body"].func.name] if node.op == "Sum"]
        per_tensor = len(in_body) // len(scores) * len(scores)  # without that over the tensors
        # Its first own variable, behind the loop's counter and limit, is the bit at which it starts.
        trips = int(constants[loop.input[2]]) + 1
        if any("Any" in name for name in loop.input):
            maybe += trips * per_tensor
        else:
            sums += trips * per_tensor
    return sums / len(scores), maybe / len(scores)


def sum_nodes(operations, scores):
    """Returns how many sums are over as many numbers as a tensor of scores has."""
    sizes = {spec.shape[0] for spec in scores}
    return sum(each.type == "Sum" and each.inputs[0].shape.num_elements() in sizes for each in operations)
