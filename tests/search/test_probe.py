"""A search that is finished brings its masks, whatever becomes of the check for a collapse."""

import numpy as np
import pytest

import force_tf


@pytest.mark.parametrize("size", [4, 24])
def test_stateful_layers_and_fixed_batch_sizes(either_keras, size):
    layers = either_keras.layers
    model = either_keras.Sequential(
        [layers.InputLayer(batch_input_shape=(size, 5, 4))]
        if either_keras.__name__ == "tf_keras"
        else [either_keras.Input(batch_shape=(size, 5, 4))]
    )
    model.add(layers.LSTM(8, stateful=True))
    model.add(layers.Dense(1))
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(size, 5, 4)).astype("float32"), np.zeros((size, 1), "float32")) for _ in range(2)]
    model.predict(batches[0][0], verbose=0)  # so that its states are not zero
    states = model.layers[-2].states
    before = [np.array(variable) for variable in [*model.variables, *states]]
    masks = force_tf.PruneAtInit("force", sparsity=0.5, steps=3).find_masks(model, batches, verbose=0)
    assert masks.sparsity == pytest.approx(0.5, abs=0.01)
    assert masks.metadata["collapsed"] is False
    for variable, value in zip([*model.variables, *states], before):
        np.testing.assert_array_equal(np.array(variable), value)


def test_a_model_that_cannot_be_tried_is_a_warning(either_keras):
    class Picky(either_keras.layers.Layer):
        def call(self, inputs, training=False):
            if not training:
                raise RuntimeError("not today")
            return inputs

    inputs = either_keras.Input((4,))
    outputs = either_keras.layers.Dense(3)(inputs)
    model = either_keras.Model(inputs, Picky()(outputs, training=True))
    call = model.call
    model.call = lambda values, training=None, mask=None: call(values) if training else Picky()(values, training=False)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    pruner = force_tf.PruneAtInit("snip", sparsity=0.5)
    with pytest.warns(UserWarning, match=r"^The masks are found, but .*could not be checked.*Received: RuntimeError"):
        masks = pruner.find_masks(model, (x, np.ones((16, 3), "float32")), "mse", verbose=0)
    assert masks.metadata["collapsed"] is None
