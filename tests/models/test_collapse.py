"""A network that is cut in two is noticed, and one that only has empty layers is not taken for it."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf


class Kill(force_tf.criteria.Criterion):
    """Scores the weights of some layers below all others."""

    needs_data = False

    def __init__(self, *layers):
        self.layers = layers

    def scores(self, network):
        return [
            tf.fill(weight.shape, 0.5 if weight.path.split("/")[0] in self.layers else 1.0)
            for weight in network.weights
        ]


def plain(biases="zeros"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", bias_initializer=biases, name="first"),
            keras.layers.Dense(8, activation="relu", bias_initializer=biases, name="second"),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4, bias_initializer=biases, name="last"),
        ]
    )


def residual():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", name="first")(inputs)
    x = keras.layers.Add()([x, keras.layers.Dense(8, activation="relu", name="branch")(x)])
    return keras.Model(inputs, keras.layers.Dense(4, name="last")(x))


def rows(count=20):
    return np.random.default_rng(0).standard_normal((count, 6)).astype("float32"), np.zeros(count, "int64")


@pytest.mark.parametrize("data", [None, rows(), rows(1)], ids=["no data", "data", "one row"])
@pytest.mark.parametrize("biases", ["zeros", "random_normal"])
def test_names_the_empty_layer_and_the_remedies(biases, data):
    pruner = force_tf.PruneAtInit(Kill("second"), sparsity=0.5)
    with pytest.warns(force_tf.LayerCollapseWarning, match=r"second/kernel \(keeps 0 of 64\).*min_per_layer") as caught:
        masks = pruner.find_masks(plain(biases), data, verbose=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning should point at the call of find_masks"
    assert masks.metadata["collapsed"] is True
    assert masks.metadata["collapsed_weights"] == ["second/kernel"]


def test_prune_warns_at_the_caller_too():
    with pytest.warns(force_tf.LayerCollapseWarning) as caught:
        force_tf.PruneAtInit(Kill("second"), sparsity=0.5).prune(plain(), verbose=0)
    assert caught[0].filename == __file__


def test_an_empty_branch_beside_a_skip_connection_is_harmless():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = force_tf.PruneAtInit(Kill("branch"), sparsity=0.5).find_masks(residual(), verbose=0)
    assert not masks["branch/kernel"].any()
    assert masks.metadata["collapsed"] is False


def test_broken_paths_without_an_empty_layer():
    """Every layer keeps weights, but those of one do not meet those of the next."""

    class Disconnect(force_tf.criteria.Criterion):
        needs_data = False

        def scores(self, network):
            first, second, last = (np.zeros(weight.shape, "float32") for weight in network.weights)
            first[:, :4] = 1  # feeds units 0 to 3 …
            second[4:, :] = 1  # … but only units 4 to 7 are read
            last[:] = 1
            return [first, second, last]

    with pytest.warns(force_tf.LayerCollapseWarning, match="first/kernel"):
        masks = force_tf.PruneAtInit(Disconnect(), sparsity=1 - 88 / 144).find_masks(plain(), verbose=0)
    assert all(mask.any() for mask in masks.values()), masks.to_table()


def test_one_dead_output_of_two_counts():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [keras.layers.Dense(4, name="a")(inputs), keras.layers.Dense(4, name="b")(inputs)])
    with pytest.warns(force_tf.LayerCollapseWarning, match="b/kernel"):
        force_tf.PruneAtInit(Kill("b"), sparsity=0.5).find_masks(model, verbose=0)


def test_a_network_that_never_depended_on_its_input_is_not_blamed_on_pruning():
    model = plain()
    model.get_layer("second").kernel.assign(np.zeros((8, 8)))
    expected = r"^Even without pruning the network's output does not .*start at zero.*trained or perturbed weights"
    with pytest.warns(force_tf.ConstantOutputWarning, match=expected) as caught:
        masks = force_tf.PruneAtInit("random", sparsity=0.2, seed=0).find_masks(model, verbose=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert masks.metadata["collapsed"] is False


@pytest.mark.parametrize("form", ["list", "dict"])
def test_which_of_several_outputs_ignores_its_input(either_keras, form):
    layers = either_keras.layers
    inputs = either_keras.Input((6,))
    good, bad = layers.Dense(4, name="good")(inputs), layers.Dense(1, name="bad", kernel_initializer="zeros")(inputs)
    model = either_keras.Model(inputs, [good, bad] if form == "list" else {"good": good, "bad": bad})
    with pytest.warns(force_tf.ConstantOutputWarning, match="^Even .* output 'bad' does not "):
        force_tf.PruneAtInit("random", sparsity=0.2, seed=0).find_masks(model, verbose=0)


def test_equal_rows_do_not_tell_whether_an_output_depends_on_them():
    data = np.ones((20, 6), "float32"), np.zeros(20, "int64")
    assert force_tf.PruneAtInit("magnitude", 0.2).find_masks(plain(), data, verbose=0).metadata["collapsed"] is False
    with pytest.warns(force_tf.LayerCollapseWarning, match="second/kernel"):
        force_tf.PruneAtInit(Kill("second"), sparsity=0.5).find_masks(plain(), data, verbose=0)


def test_words_that_no_vocabulary_knows_do_not_tell_either():
    words = keras.Input((3,), dtype="string")
    x = keras.layers.StringLookup(vocabulary=["cat", "dog"])(words)
    x = keras.layers.Flatten()(keras.layers.Embedding(4, 5)(x))
    model = keras.Model(words, keras.layers.Dense(2)(x))
    force_tf.PruneAtInit("magnitude", sparsity=0.2).find_masks(model, verbose=0)  # warnings are errors
    unknown = np.array([["a", "b", "c"], ["d", "e", "f"]]), np.zeros(2, "int64")
    with pytest.warns(force_tf.ConstantOutputWarning):
        force_tf.PruneAtInit("magnitude", sparsity=0.2).find_masks(model, unknown, verbose=0)


@pytest.mark.parametrize("size", [1, 3])
def test_fixed_batch_sizes_and_states(size):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(size, 4, 2)),
            keras.layers.LSTM(3, stateful=True, name="lstm"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    assert force_tf.PruneAtInit("random", 0.1, seed=0).find_masks(model, verbose=0).metadata["collapsed"] is False

    class Recurrent(force_tf.criteria.Criterion):
        """Keeps the weights between the states and the head alone: the state lives, but reads no input."""

        needs_data = False

        def scores(self, network):
            return [tf.fill(each.shape, 0.5 if each.path.endswith("cell/kernel") else 1.0) for each in network.weights]

    model.set_weights([np.full(weight.shape, 0.5, "float32") for weight in model.get_weights()])
    kept = 3 * 12 + 3 * 2
    with pytest.warns(force_tf.LayerCollapseWarning, match="lstm_cell/kernel"):
        force_tf.PruneAtInit(Recurrent(), sparsity=1 - kept / (kept + 2 * 12)).find_masks(model, verbose=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float32", "float64"])
def test_outputs_that_differ_by_a_twentieth_are_not_taken_for_equal(dtype):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="dense", dtype=dtype)])
    kernel = np.full((6, 4), 0.01)
    kernel[0] = 0.05
    model.set_weights([kernel, np.ones(4)])
    x = np.zeros((2, 6), "float32")
    x[1, 0] = 1.0  # outputs of 1.00 and 1.05
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, (x, np.zeros(2, "int64")), verbose=0)
    assert masks["dense/kernel"][0].all()
    assert masks.metadata["collapsed"] is False


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16", "float64"])
def test_collapse_is_seen_in_every_precision(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        model = plain("random_normal")
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.warns(force_tf.LayerCollapseWarning, match="second/kernel"):
        force_tf.PruneAtInit(Kill("second"), sparsity=0.5).find_masks(model, verbose=0)


def test_a_subclassed_model_without_data_cannot_be_tried():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, name="dense")

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 6), "float32"))
    assert force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, verbose=0).metadata["collapsed"] is None
    assert (
        force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, rows(), verbose=0).metadata["collapsed"]
        is False
    )
