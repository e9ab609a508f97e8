"""Which searches need targets: those that score a loss which compares outputs with them, and no others."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
import tf_keras

import force_tf
from helpers.reference import blobs, mlp
from helpers.refusal import LOSS, X, Y, refuse

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks do
INPUTS = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "frame": lambda: pd.DataFrame(X),
    "sparse": lambda: scipy.sparse.csr_matrix(X),
    "lists": lambda: X.tolist(),
    "tuple": lambda: (X,),
    "none": lambda: (X, None),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(8),
    "batches": lambda: [X[:8], X[8:]],
    "generator": lambda: iter([X]),
    "words": lambda: (X, Y.astype(str)),
}


@pytest.mark.parametrize("data", INPUTS.values(), ids=INPUTS.keys())
@pytest.mark.parametrize("method", ["magnitude", "synflow", "random"])
def test_methods_without_a_loss_take_inputs_alone(method, data):
    pruner = force_tf.PruneAtInit(method, sparsity=0.5, seed=0)
    masks = pruner.find_masks(mlp(), data(), verbose=0)
    assert masks.kept == 21
    assert masks.metadata["collapsed"] is not None, "the network was tried on these inputs"


@pytest.mark.parametrize("module", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_inputs_by_name(module):
    left, right = module.Input((2,), name="left"), module.Input((2,), name="right")
    outputs = module.layers.Dense(3, name="head")(module.layers.Concatenate()([left, right]))
    model = module.Model({"left": left, "right": right}, outputs)
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(
        model, {"left": X[:, :2], "right": X[:, 2:]}, verbose=0
    )
    kernel = np.abs(model.get_layer("head").get_weights()[0])
    np.testing.assert_array_equal(masks["head/kernel"], kernel >= np.sort(kernel.ravel())[6])


class Activity(force_tf.criteria.Criterion):
    """|θ| times the mean square of the input that it multiplies, of a model of one layer."""

    needs_loss = False

    def scores(self, network):
        squares = [tf.reduce_mean(tf.square(batch.x), 0)[:, None] for batch in network.next_batches()]
        return [tf.abs(network.dense[0]) * tf.add_n(squares)]


@pytest.mark.parametrize("form", ["array", "frame", "lists", "tuple", "none", "generator", "words"])
def test_a_criterion_of_inputs_alone_needs_neither_loss_nor_targets(form):
    model = mlp((4, 6))
    masks = force_tf.PruneAtInit(Activity(), sparsity=0.5).find_masks(model, INPUTS[form](), verbose=0)
    scores = (np.abs(model.get_weights()[0]) * np.square(blobs()[0]).mean(0)[:, None]).ravel()
    np.testing.assert_array_equal(masks["dense_0/kernel"].ravel(), np.isin(np.arange(24), np.argsort(-scores)[:12]))


def test_a_criterion_of_inputs_alone_needs_data():
    refuse(ValueError, "`data`: the method 'Activity' needs inputs", "data=None", method=Activity(), data=None)


@pytest.mark.parametrize("data", [INPUTS["dataset"], INPUTS["none"]], ids=["dataset", "none"])
def test_a_loss_that_compares_needs_targets(data):
    refuse(ValueError, "the loss needs targets", data=data(), loss=LOSS)
