"""Sparse, ragged and pandas's inputs give the masks that the same numbers give in dense arrays, in both Kerases."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
import tf_keras

import force_tf
from helpers.reference import blobs, mlp, snip_masks
from helpers.refusal import refuse

KERASES = pytest.mark.parametrize("module", [keras, tf_keras], ids=["keras", "tf_keras"])
RANDOM = np.random.default_rng(0)
DENSE = (RANDOM.standard_normal((24, 30)) * (RANDOM.random((24, 30)) < 0.2)).astype("float32")
DENSE[5] = 0  # a row without entries
TARGETS = RANDOM.integers(0, 3, 24)
CSR = scipy.sparse.csr_matrix(DENSE)
SPARSE = tf.sparse.from_dense(DENSE)


def classifier(module, sparse=True):
    module.utils.set_random_seed(0)
    inputs = module.Input((30,), sparse=sparse, name="x")
    hidden = module.layers.Dense(8, "relu", name="hidden")(inputs)
    model = module.Model(inputs, module.layers.Dense(3, name="head")(hidden))
    model.compile("sgd", module.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def find(model, data, method="snip", batch_size=10, **options):
    pruner = force_tf.PruneAtInit(method, sparsity=0.7, seed=0, **options)
    masks = pruner.find_masks(model, data, batch_size=batch_size, verbose=0)
    assert masks.metadata["collapsed"] is False, "the network was tried on the sparse rows"
    return masks


def batches(x, y=TARGETS):
    return [(x[begin : begin + 10], y[begin : begin + 10]) for begin in range(0, 24, 10)]


ARRAYS = {"csr": CSR, "coo": CSR.tocoo(), "csr_array": scipy.sparse.csr_array(DENSE), "tensor": SPARSE}


@KERASES
@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")  # many inputs are zero in every row
@pytest.mark.parametrize("method", ["snip", "force", "grasp", "prospr", "synflow", "magnitude"])
def test_every_method_takes_sparse_arrays(module, method):
    model = classifier(module)
    options = {"batches": 2} if method == "snip" else {}
    assert find(model, (CSR, TARGETS), method, **options) == find(model, (DENSE, TARGETS), method, **options)


@KERASES
@pytest.mark.parametrize("declared", [True, False], ids=["sparse_input", "dense_input"])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_every_kind_of_sparse_array(module, declared, array):
    model = classifier(module, declared)
    assert find(model, (array, TARGETS), batches=3) == find(model, (DENSE, TARGETS), batches=3)


@KERASES
def test_sparse_batches_of_all_sizes_run_through_one_trace(module):
    expected = find(classifier(module), batches(DENSE), "iter_snip", steps=4)
    dataset = tf.data.Dataset.from_tensor_slices((SPARSE, TARGETS)).batch(10)
    for data in (dataset, batches(CSR)):
        traces = []

        def loss(y_true, y_pred, traces=traces):
            traces.append(y_pred)
            return module.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

        pruner = force_tf.PruneAtInit("iter_snip", sparsity=0.7, steps=4)
        assert pruner.find_masks(classifier(module), data, loss, verbose=0) == expected
        assert len(traces) == 1, f"{len(traces)} traces"


@KERASES
@pytest.mark.parametrize("structure", ["dict", "list"])
def test_sparse_parts_of_several_inputs(module, structure):
    module.utils.set_random_seed(0)
    wide, narrow = module.Input((30,), sparse=True, name="wide"), module.Input((4,), name="narrow")
    joined = [module.layers.Dense(6, name="left")(wide), module.layers.Dense(6, name="right")(narrow)]
    inputs = {"wide": wide, "narrow": narrow} if structure == "dict" else [wide, narrow]
    model = module.Model(inputs, module.layers.Dense(3, name="head")(module.layers.Concatenate()(joined)))
    model.compile("sgd", module.losses.SparseCategoricalCrossentropy(from_logits=True))
    other = np.float32(blobs()[0])

    def data(array):
        return ({"wide": array, "narrow": other} if structure == "dict" else [array, other], TARGETS)

    expected = find(model, data(DENSE))
    assert find(model, data(CSR)) == expected
    assert find(model, data(SPARSE)) == expected


@KERASES
@pytest.mark.parametrize("as_dataset", [False, True], ids=["arrays", "dataset"])
def test_ragged_rows_count_as_they_are(module, as_dataset):
    if module is keras and not hasattr(keras.KerasTensor((None, None), "int32"), "ragged"):
        pytest.skip("this Keras takes no ragged inputs")
    rows = [RANDOM.integers(1, 9, RANDOM.integers(1, 6)) for _ in range(24)]
    module.utils.set_random_seed(0)
    inputs = module.Input((None,), dtype="int32", ragged=True)
    vectors = module.layers.Embedding(9, 6, name="words")(inputs)
    summed = module.layers.Lambda(lambda x: tf.reduce_sum(x, 1), output_shape=(6,))(vectors)
    model = module.Model(inputs, module.layers.Dense(3, name="head")(summed))
    model.compile("sgd", module.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = (tf.ragged.constant([row.tolist() for row in rows]), TARGETS)
    if as_dataset:
        data = tf.data.Dataset.from_tensor_slices(data).batch(24)
    masks = find(model, data, layers=["head"], batch_size=24)

    # Counts of words times the embeddings are their sums.
    table, kernel, bias = (tf.constant(weight) for weight in model.get_weights())
    sums = tf.constant(np.stack([np.bincount(row, minlength=9) for row in rows]).astype("float32")) @ table
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(TARGETS, sums @ kernel + bias))
    scores = np.abs(kernel * tape.gradient(loss, kernel)).ravel()
    expected = np.isin(np.arange(18), np.argsort(-scores)[:5])
    np.testing.assert_array_equal(masks["head/kernel"].ravel(), expected)


def test_shapes_that_ragged_data_does_not_tell():
    inputs = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 6)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    data = (tf.ragged.constant([[1, 2], [3]]), np.zeros(2))
    refuse(ValueError, "pass `data` that is not ragged", model=model, data=data, method="synflow")


FRAME = pd.DataFrame(blobs()[0], columns=list("abcd"), index=np.arange(24)[::-1])
PANDAS = {
    "frame_and_series": (FRAME, pd.Series(blobs()[1], index=FRAME.index)),
    "frames": (FRAME, pd.DataFrame({"class": blobs()[1]})),
    "frame_and_array": (FRAME, blobs()[1]),
    "lists": (blobs()[0].tolist(), blobs()[1].tolist()),
}


@pytest.mark.parametrize("as_batch", [False, True], ids=["arrays", "batch"])
@pytest.mark.parametrize("data", PANDAS.values(), ids=PANDAS.keys())
def test_pandas_and_lists(data, as_batch):
    model = mlp()
    pruner = force_tf.PruneAtInit("snip", sparsity=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    masks = pruner.find_masks(model, [data] if as_batch else data, loss, verbose=0)
    assert masks == snip_masks(model, [[blobs()]], [21])


def test_series_as_sample_weights():
    weights = np.linspace(0, 2, 24)
    model = mlp()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    data = (FRAME, blobs()[1], pd.Series(weights))
    masks = force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(model, data, loss, verbose=0)
    assert masks == snip_masks(model, [[(*blobs(), weights)]], [21])


@pytest.mark.parametrize("inputs", [FRAME, CSR, SPARSE, blobs()[0].tolist()], ids=["frame", "csr", "sparse", "list"])
def test_inputs_alone_are_not_taken_for_batches(inputs):
    refuse(TypeError, r"arrays \(x, y\)", data=inputs)
