"""Rows of arrays of every kind are those that NumPy's indexing takes of the dense array."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from force_tf.support.arrays import as_arrays, as_dense, as_tensor, is_array, row_count, take_rows


def with_zeros(shape, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal(shape) * (random.random(shape) < 0.3)


def shuffled(dense):
    """The sparse tensor of an array, its entries in no order."""
    sparse = tf.sparse.from_dense(dense)
    order = np.random.default_rng(0).permutation(len(sparse.values))
    return tf.SparseTensor(tf.gather(sparse.indices, order), tf.gather(sparse.values, order), dense.shape)


KINDS = {
    "numpy": np.asarray,
    "tensor": tf.constant,
    "lists": lambda dense: dense.tolist(),
    "tuples": lambda dense: tuple(map(tuple, dense.tolist())),
    "frame": pd.DataFrame,
    "sparse": tf.sparse.from_dense,
    "unordered_sparse": shuffled,
    **{name: getattr(scipy.sparse, f"{name}_matrix") for name in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")},
    "csr_array": scipy.sparse.csr_array,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_rows_are_those_of_the_dense_array(kind):
    dense = with_zeros((7, 5))
    dense[3] = 0  # a row without entries
    given_array = kind(dense)
    array = as_arrays(given_array)
    assert is_array(given_array)
    assert row_count(array) == 7
    np.testing.assert_array_equal(as_dense(array), dense)
    for rows in ([6, 0, 3, 3, 2, 6], [3], [], range(7)):
        rows = np.asarray(rows, int)
        taken = take_rows(array, rows)
        np.testing.assert_array_equal(as_dense(taken), dense[rows])
        np.testing.assert_array_equal(as_dense(as_tensor(taken)), dense[rows])
        assert row_count(taken) == len(rows)
    np.testing.assert_array_equal(as_dense(take_rows(array, range(2, 5))), dense[2:5])


@pytest.mark.parametrize("rows", [range(1, 3), np.array([1, 2]), range(0)])
def test_rows_of_ragged_tensors(rows):
    ragged = tf.ragged.constant([[1, 2], [], [3, 4, 5]])
    assert take_rows(ragged, rows).to_list() == [[[], [3, 4, 5]], []][len(rows) == 0]


@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    data=st.data(),
)
def test_sparse_tensors_of_every_rank(shape, data):
    dense = with_zeros(shape, seed=data.draw(st.integers(0, 100)))
    rows = np.asarray(data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=8)), int)
    taken = take_rows(as_arrays(shuffled(dense)), rows)
    assert np.all(np.diff(taken.indices[:, 0]) >= 0)
    np.testing.assert_array_equal(tf.sparse.to_dense(tf.sparse.reorder(taken)), dense[rows])


def test_sparse_stays_sparse():
    matrix = scipy.sparse.csr_matrix(with_zeros((7, 5)))
    for array in (matrix, tf.sparse.from_dense(matrix.toarray())):
        tensor = as_tensor(take_rows(as_arrays(array), np.arange(3)))
        assert isinstance(tensor, tf.SparseTensor)
        assert len(tensor.values) == np.count_nonzero(matrix.toarray()[:3])


def test_entries_of_scipy_that_stand_twice_are_added_in_a_copy():
    matrix = scipy.sparse.csr_matrix(([1.0, 2.0, 4.0], [2, 2, 0], [0, 3, 3]), shape=(2, 3))
    np.testing.assert_array_equal(as_dense(as_tensor(as_arrays(matrix))), [[4.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(matrix.indices, [2, 2, 0])


def test_ragged_rows():
    ragged = as_arrays(tf.ragged.constant([[1, 2, 3], [], [4]]))
    assert take_rows(ragged, np.array([2, 0, 2])).to_list() == [[4], [1, 2, 3], [4]]


def test_structures_keep_their_form():
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    structure = {"b": [np.zeros(3), None], "a": (frame, [[1, 2], [3, 4]])}
    arrays = as_arrays(structure)
    assert list(arrays) == ["b", "a"]
    assert isinstance(arrays["a"], tuple)
    assert isinstance(arrays["b"], list)
    assert arrays["b"][1] is None
    np.testing.assert_array_equal(arrays["a"][0], [[1.0], [2.0]])
    np.testing.assert_array_equal(arrays["a"][1], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("columns", "dtype"),
    [
        ({"a": [1, 2], "b": [3, 4]}, np.int64),
        ({"a": [1, 2], "b": [3.0, 4.0]}, np.float64),
        ({"a": [True, False], "b": [3.0, 4.0]}, np.float64),
        ({"a": pd.array([1, 2], "Int64"), "b": [3.0, 4.0]}, np.float64),
    ],
)
def test_frames_of_columns_of_several_types(columns, dtype):
    array = as_arrays(pd.DataFrame(columns))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.stack([np.asarray(values, float) for values in columns.values()], axis=1))


def test_a_series_is_a_column():
    np.testing.assert_array_equal(as_arrays(pd.Series([1, 2, 3], index=[5, 5, 7])), [[1], [2], [3]])


def test_lists_of_rows_of_different_lengths():
    with pytest.raises(ValueError, match=r"^Expected lists of numbers whose rows are of one length.*Received: a list"):
        as_arrays([[1, 2], [3]])


def test_words_in_a_frame():
    with pytest.raises(
        TypeError, match=r"^Expected batches of arrays that hold numbers .*dict of columns.*Received: dtype object"
    ):
        as_tensor(as_arrays(pd.DataFrame({"a": ["x", "y"], "b": [1, 2]})))


def test_what_is_no_array():
    for item in (tf.data.Dataset.range(3), {"a": np.zeros(3)}, [np.zeros(3)], iter([]), "text", 3, None, []):
        assert not is_array(item), item
