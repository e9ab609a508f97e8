"""Sample inputs for an export are dense arrays of the same rows, in whatever form of `fit` they come."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

import force_tf
from force_tf.objective.batches import first_inputs

RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((40, 6)) * (RANDOM.random((40, 6)) < 0.5)).astype("float32")
Y = np.zeros(40)
SPREAD = X[[0, 13, 26, 39]]  # at even distances
SPARSE = tf.sparse.from_dense(X)

ARRAYS = {
    "array": X,
    "frame": pd.DataFrame(X, index=np.arange(40)[::-1]),
    "csc": scipy.sparse.csc_matrix(X),
    "sparse": SPARSE,
    "ragged": tf.RaggedTensor.from_tensor(X),
    "lists": X.tolist(),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_rows_of_arrays_at_even_distances(array):
    alone, with_targets = first_inputs(array, 4), first_inputs((array, Y), 4)
    by_name, in_list = first_inputs({"x": array}, 4)["x"], first_inputs([X, array], 4)[1]
    for samples in (alone, with_targets, by_name, in_list):
        assert isinstance(samples, np.ndarray)
        np.testing.assert_array_equal(np.float32(samples), SPREAD)


@pytest.mark.parametrize(
    "data",
    [
        tf.data.Dataset.from_tensor_slices((SPARSE, Y)).batch(3),
        tf.data.Dataset.from_tensor_slices(SPARSE).batch(3),
        [(scipy.sparse.csr_matrix(X[:2]), Y[:2]), (scipy.sparse.csr_matrix(X[2:]), Y[2:])],
        ((frame, Y) for frame in (pd.DataFrame(X[:3]), pd.DataFrame(X[3:9]))),
    ],
    ids=["dataset", "dataset without targets", "scipy batches", "pandas batches"],
)
def test_the_first_rows_of_batches(data):
    np.testing.assert_array_equal(first_inputs(data, 4), X[:4])


def test_an_export_measures_and_verifies_on_a_frame(tmp_path):
    frame = pd.DataFrame(X.astype("float64"), columns=list("abcdef"))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1, "sigmoid")])
    files = []
    for data in (X, frame, scipy.sparse.csr_array(X)):
        path = tmp_path / "model.tflite"
        options = {"representative_data": data, "verify_data": data, "verbose": False}
        report = force_tf.export_tflite(model, path, quantize="int8", **options)
        assert report.samples == 40
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]
