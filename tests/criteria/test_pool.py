"""`Pool`: candidates by one score, the choice among them by another."""

import numpy as np
import pytest

import force_tf


class Given(force_tf.criteria.Criterion):
    needs_data = False

    def __init__(self, values, dtype):
        self.values = np.array(values, dtype)

    def scores(self, network):
        (weight,) = network.weights
        return [self.values.reshape(weight.shape)]


@pytest.mark.parametrize("first_dtype", ["float32", "float64"])
def test_scores_keep_the_precision_of_the_second(either_keras, first_dtype):
    keras = either_keras
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, use_bias=False, dtype="float64")])
    # Candidates are the first three; of these the second goes, which is the smallest by 1e-12.
    first = Given([1, 2, 3, 4], first_dtype)
    then = Given([1 + 2e-12, 1, 1 + 1e-12, 0.5], "float64")
    pruner = force_tf.PruneAtInit(force_tf.criteria.Pool(first, 0.75, then), sparsity=0.25, scope="global")
    (mask,) = pruner.find_masks(model, verbose=0).values()
    assert mask.ravel().tolist() == [True, False, True, True]
