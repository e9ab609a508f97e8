"""What a criterion sees of the network, from `prepare` on."""

import gc
import weakref

import keras
import numpy as np
import tensorflow as tf

import force_tf

X = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")
KERNEL = np.random.default_rng(1).standard_normal((4, 3)).astype("float32")


def network():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    model.set_weights([KERNEL, np.zeros(3, "float32")])
    return model


class Watched(force_tf.criteria.Criterion):
    """Doubles the weights before the first step, and notes what it sees."""

    needs_data = False

    def __init__(self):
        self.seen = []

    def note(self, network):
        (dense,), (masked,) = network.dense, network.masked_weights()
        self.seen.append((dense.numpy(), masked.numpy()))

    def prepare(self, network):
        self.note(network)
        network.weights[0].variable.assign(2 * network.dense[0])

    def scores(self, network):
        self.note(network)
        return [tf.abs(weight) for weight in network.dense]


def test_the_weights_before_pruning_are_there_from_the_beginning():
    criterion = Watched()
    model = network()
    masks = force_tf.PruneAtInit(criterion, 0.5, steps=2, schedule="linear").find_masks(model, verbose=0)
    first = np.sort(np.abs(KERNEL), axis=None)[3]  # 9 of 12 are kept
    (dense, masked), (dense_1, masked_1), (dense_2, masked_2) = criterion.seen
    np.testing.assert_array_equal(dense, KERNEL)
    np.testing.assert_array_equal(masked, KERNEL)
    for values in (dense_1, masked_1, dense_2):
        np.testing.assert_array_equal(values, 2 * KERNEL)
    np.testing.assert_array_equal(masked_2, np.where(np.abs(KERNEL) >= first, 2 * KERNEL, 0))
    np.testing.assert_array_equal(model.get_weights()[0], KERNEL)
    assert masks.kept == 6


def test_a_function_is_traced_once_and_a_network_leaves_no_cycle():
    traces = []

    def squares(model, x):
        traces.append(None)
        return tf.reduce_sum(tf.square(model(x)))

    class Own(force_tf.criteria.Criterion):
        def scores(self, network):
            self.network = weakref.ref(network)
            assert network.loss_gradient is network.loss_gradient
            assert network.full_loss_gradient is not network.loss_gradient
            gradient = network.gradient_function(squares, [tf.TensorSpec([None, 4])])
            # d/dW sum((x W)^2) = 2 x' x W
            np.testing.assert_allclose(gradient(X)[0], 2 * X.T @ X @ network.masked_weights()[0].numpy(), rtol=1e-4)
            return [tf.abs(each) for each in network.mean_gradient()]

    criterion = Own()
    gc.disable()
    try:
        pruner = force_tf.PruneAtInit(criterion, 0.5, steps=3)
        pruner.find_masks(network(), (X, X[:, :3]), "mse", verbose=0)
        assert criterion.network() is None, "the copies of the weights live until the garbage is collected"
    finally:
        gc.enable()
    assert len(traces) == 1
