"""Arrays of every kind that `fit` takes: dense, sparse and ragged ones, pandas's, scipy's and lists of numbers.

Neither pandas nor scipy is imported: what is of them is told by what it can do.
"""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_TENSORS = (tf.Tensor, tf.SparseTensor, tf.RaggedTensor)


def is_array(item: Any) -> bool:
    """Returns whether an object is one array, rather than a structure or a stream of them."""
    return (
        isinstance(item, (np.ndarray, *_TENSORS))
        or _is_pandas(item)
        or _is_scipy_sparse(item)
        or _is_list_of_numbers(item)
        or hasattr(item, "__array__")
    )


def as_arrays(structure: Any) -> Any:
    """Returns a structure whose leaves are arrays that `take_rows` and `as_tensor` take.

    Args:
        structure: An array, or dicts, lists and tuples of arrays; lists of numbers count as arrays. None stays.

    Returns:
        The structure of NumPy arrays, tensors (dense, sparse or ragged) and sparse matrices of scipy, by rows. As in
        `fit`, a pandas Series is a column, of shape (rows, 1).

    Raises:
        ValueError: If the rows of a list differ in length.
    """

    def convert(item):
        # None lets `traverse` go on into the item, or leave it as it is.
        inner = isinstance(item, (dict, list, tuple)) and not _is_list_of_numbers(item)
        return None if item is None or inner else _as_array(item)

    return keras.tree.traverse(convert, structure)


def _as_array(item):
    if isinstance(item, tf.SparseTensor):
        # Rows are found by bisection, so they must be in order; most are.
        in_order = bool(np.all(np.diff(_row_indices(item)) >= 0))
        return item if in_order else tf.sparse.reorder(item)
    if isinstance(item, (np.ndarray, *_TENSORS)):
        return item
    if _is_scipy_sparse(item):
        return item.tocsr()
    if _is_pandas(item):
        return _from_pandas(item)
    try:
        return np.asarray(item)
    except ValueError:
        raise ValueError(
            "Expected lists of numbers whose rows are of one length; `tf.ragged.constant` takes others. "
            f"Received: a {type(item).__name__} of {len(item)} rows of different lengths"
        ) from None


def row_count(array: Any) -> int:
    """Returns the number of rows, the size of the first axis, of what `as_arrays` returns."""
    return int(array.shape[0])


def take_rows(array: Any, rows: np.ndarray) -> Any:
    """Returns rows of an array, as an array of the same kind.

    Args:
        array: What `as_arrays` returns, or a tensor that is not symbolic.
        rows: The indices of the rows, an array or a range, in any order, some of them more than once if need be.
    """
    if isinstance(array, tf.SparseTensor):
        return _take_sparse_rows(array, rows)
    if isinstance(array, (tf.Tensor, tf.RaggedTensor)):
        return tf.gather(array, np.asarray(rows, np.int64))  # ragged ones take no `range`
    return array[rows]


def _take_sparse_rows(sparse: tf.SparseTensor, rows: np.ndarray) -> tf.SparseTensor:
    owners = np.ascontiguousarray(_row_indices(sparse))
    begins, ends = np.searchsorted(owners, rows, "left"), np.searchsorted(owners, rows, "right")
    counts = ends - begins
    # The entries of each row, one row after another.
    offsets = np.repeat(begins - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    entries = (np.arange(counts.sum()) + offsets).astype(np.int64)
    indices = sparse.indices.numpy()[entries]
    indices[:, 0] = np.repeat(np.arange(len(rows)), counts)
    return tf.SparseTensor(indices, tf.gather(sparse.values, entries), [len(rows), *sparse.shape[1:]])


def _row_indices(sparse: tf.SparseTensor) -> np.ndarray:
    return sparse.indices.numpy()[:, 0]


def as_tensor(array: Any, float_dtype: str | None = None) -> tf.Tensor | tf.SparseTensor | tf.RaggedTensor:
    """Returns what `as_arrays` returns as a tensor, sparse if it is sparse.

    Args:
        array: What `as_arrays` returns.
        float_dtype: The float type that floats are cast to unless they are in tensors; None to leave them.

    Raises:
        TypeError: If it holds neither numbers nor strings.
    """
    if isinstance(array, _TENSORS):
        return array
    if float_dtype is not None and np.issubdtype(array.dtype, np.floating):
        array = array.astype(float_dtype)
    try:
        return _from_scipy(array) if _is_scipy_sparse(array) else tf.convert_to_tensor(array)
    except (TypeError, ValueError):
        raise TypeError(
            "Expected batches of arrays that hold numbers (of a frame whose columns differ in type, pass a dict of "
            f"columns). Received: dtype {array.dtype}"
        ) from None


def as_dense(array: Any) -> np.ndarray:
    """Returns what `as_arrays` returns as a dense array. Short rows of a ragged one are filled up with zeros."""
    if _is_scipy_sparse(array):
        return array.toarray()
    if isinstance(array, tf.SparseTensor):
        return tf.sparse.to_dense(array).numpy()
    return np.asarray(array.to_tensor() if isinstance(array, tf.RaggedTensor) else array)


def _is_scipy_sparse(item: Any) -> bool:
    return any(cls.__module__.startswith("scipy.sparse") for cls in type(item).__mro__) and hasattr(item, "tocsr")


def _from_scipy(matrix) -> tf.SparseTensor:
    rows = matrix.tocsr(copy=True)
    rows.sum_duplicates()  # sorts them too
    entries = rows.tocoo()
    indices = np.stack([entries.row, entries.col], axis=1).astype(np.int64)
    return tf.SparseTensor(indices, entries.data, entries.shape)


def _is_pandas(item: Any) -> bool:
    return hasattr(item, "to_numpy") and hasattr(item, "iloc")


def _from_pandas(frame) -> np.ndarray:
    array = frame.to_numpy()
    if array.dtype == object:
        # Columns of several types, such as numbers and booleans, have no common one but this.
        with contextlib.suppress(TypeError, ValueError):
            array = array.astype(np.float64)
    return array[:, None] if array.ndim == 1 else array


def _is_list_of_numbers(item: Any) -> bool:
    """Whether an object is a list of numbers or strings, or a list of such lists."""
    while isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
        if not len(item):
            return False
        item = item[0]
        if isinstance(item, (numbers.Number, str, bytes, np.generic)):
            return True
    return False
