"""`shrink`: the smaller model computes the same function, whatever the layers and whatever is zero."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import force_tf
from force_tf import CollapsedError, shrink
from force_tf.models.prunable import all_prunable_weights
from helpers.shrinking import (
    NETWORKS,
    SETTINGS,
    Examples,
    assert_same_function,
    branches,
    chain,
    convolutions,
    inputs_for,
    outputs_of,
    random_masks,
    randomized,
)
from helpers.subclassed_models import without_graph
from helpers.training_forms import dtype_policy

pytestmark = [
    pytest.mark.filterwarnings("ignore:Every channel of the model"),
    pytest.mark.usefixtures("float64"),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_plain_models_compute_the_same(either_keras, network):
    examples = Examples()

    @settings(SETTINGS, max_examples=6)
    @given(seed=st.integers(0, 2**16), sparsity=st.sampled_from([0.0, 0.5, 0.8]), dead=st.sampled_from([0.2, 0.5]))
    def check(seed, sparsity, dead):
        rng = np.random.default_rng(seed)
        model = randomized(network(either_keras), rng)
        for path, mask in random_masks(model, rng, sparsity, dead).items():
            weight = next(weight for weight in all_prunable_weights(model) if weight.path == path)
            weight.variable.assign(np.asarray(weight.variable) * mask)
        before, x = [np.asarray(variable) for variable in model.variables], inputs_for(model, rng)
        small = examples.shrink(model, x)
        assert_same_function(model, small, x)
        assert small.count_params() <= model.count_params() + 50  # biases may be new
        assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
        assert small.input_shape == model.input_shape
        assert small.output_shape == model.output_shape
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)

    check()
    examples.check()


@pytest.mark.parametrize("network", NETWORKS)
def test_wrapped_models_come_back_wrapped(either_keras, network):
    examples = Examples()

    @settings(SETTINGS, max_examples=3)
    @given(seed=st.integers(0, 2**16))
    def check(seed):
        _check_wrapped(either_keras, network, np.random.default_rng(seed), examples)

    check()
    examples.check()


def _check_wrapped(keras, network, rng, examples):
    model = randomized(network(keras), rng)
    if network is not branches:
        loss = keras.losses.MeanSquaredError()
        model.compile(keras.optimizers.Adam(0.25), loss, metrics=["mae"], jit_compile=False)
    masks = random_masks(model, rng, 0.5, 0.4)
    pruned = force_tf.apply_masks(model, masks)
    x = inputs_for(model, rng)
    small = examples.shrink(pruned, x)
    assert_same_function(pruned, small, x)
    kept, cut = force_tf.get_masks(pruned), force_tf.get_masks(small)
    assert list(cut) == list(kept)
    assert force_tf.get_masks(pruned) == force_tf.Masks(masks), "the masks of the model handed in have changed"
    for path in cut:
        assert cut[path].size <= kept[path].size
    if network is not branches:
        assert small.optimizer.get_config() == pruned.optimizer.get_config()
        y = np.zeros((len(x), *small.output_shape[1:]))
        small.fit(x, y, epochs=2, verbose=0)
        for weight in all_prunable_weights(small):
            stray = np.count_nonzero(np.asarray(weight.variable)[~force_tf.get_masks(small)[weight.path]])
            assert not stray, f"{stray} pruned weights of {weight.path} are not zero after training"


def test_a_network_by_hand(either_keras):
    layers = either_keras.layers
    hidden = layers.Dense(5, "relu", name="hidden")
    middle = layers.Dense(3, "relu", use_bias=False, name="middle")
    model = either_keras.Sequential([either_keras.Input((2,)), hidden, middle, layers.Dense(1, name="logits")])
    # Units of `hidden`: live, live, constant relu(3) = 3, constant relu(-1) = 0, live but read by no one.
    hidden.kernel.assign([[1.0, 0, 0, 0, 2], [0, 1, 0, 0, 2]])
    hidden.bias.assign([0.0, 0.5, 3, -1, 0])
    # Units of `middle`: from the two live ones; from the constant alone, which is relu(2 * 3) = 6; live but not read.
    middle.kernel.assign([[1.0, 0, 1], [1, 0, 1], [4, 2, 0], [7, 7, 0], [0, 0, 0]])
    model.layers[-1].kernel.assign([[1.0], [10], [0]])
    small = shrink(model)
    assert [tuple(layer.kernel.shape) for layer in small.layers] == [(2, 2), (2, 1), (1, 1)]
    np.testing.assert_array_equal(small.get_layer("hidden").kernel, np.eye(2))
    np.testing.assert_array_equal(small.get_layer("middle").bias, [12.0])  # 4 * 3, in a bias that there was not
    np.testing.assert_array_equal(small.get_layer("logits").bias, [60.0])
    assert_same_function(model, small, np.array([[1.0, 2], [-1, 0.2], [3, -4]]))


def test_constants_behind_padding_become_one_channel(either_keras):
    layers = either_keras.layers
    first, second = layers.Conv2D(4, 1, name="first"), layers.Conv2D(2, 3, padding="same", name="second")
    model = either_keras.Sequential([either_keras.Input((5, 5, 1)), first, second])
    first.kernel.assign([[[[1.0, 0, 0, 0]]]])
    first.bias.assign([0.0, 2, -4, 0])
    rng = np.random.default_rng(0)
    second.kernel.assign(rng.normal(size=(3, 3, 4, 2)))
    small = shrink(model)
    # The live channel, and the larger of the two constants; the zero is exact.
    assert small.get_layer("first").filters == 2
    np.testing.assert_array_equal(small.get_layer("first").bias, [0.0, -4])
    assert_same_function(model, small, rng.normal(size=(3, 5, 5, 1)))


def fractions(x):
    return x / tf.reduce_sum(tf.abs(x), axis=-1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", fractions])
def test_activations_that_look_at_all_units_keep_them(either_keras, activation):
    layers = either_keras.layers
    hidden, mixed = layers.Dense(5, "relu", name="hidden"), layers.Dense(4, activation, name="mixed")
    model = either_keras.Sequential([either_keras.Input((3,)), hidden, mixed, layers.Dense(2, name="logits")])
    rng = np.random.default_rng(0)
    randomized(model, rng)
    hidden.kernel.assign(np.asarray(hidden.kernel) * [1, 1, 0, 1, 0])
    mixed.kernel.assign(np.asarray(mixed.kernel) * [1, 0, 0, 1])
    model.layers[-1].kernel.assign(np.asarray(model.layers[-1].kernel) * [[1], [1], [0], [0]])
    small = shrink(model)
    assert [tuple(layer.kernel.shape) for layer in small.layers] == [(3, 3), (3, 4), (4, 2)]
    assert_same_function(model, small, rng.normal(size=(4, 3)))


def test_classes_of_the_user_are_not_taken_for_those_of_keras(either_keras):
    class Dense(either_keras.layers.Dense):
        """Adds up its units."""

        def call(self, inputs):
            return tf.cumsum(super().call(inputs), axis=-1)

    first, own, last = either_keras.layers.Dense(4), Dense(3), either_keras.layers.Dense(2)
    model = either_keras.Sequential([either_keras.Input((3,)), first, own, last])
    rng = np.random.default_rng(0)
    randomized(model, rng)
    first.kernel.assign(np.asarray(first.kernel) * [1, 1, 0, 1])
    last.kernel.assign(np.asarray(last.kernel) * [[0], [1], [0]])
    assert_same_function(model, shrink(model), rng.normal(size=(4, 3)))


def test_single_precision(either_keras):
    rng = np.random.default_rng(0)
    with dtype_policy("float32", either_keras):
        model = randomized(convolutions(either_keras), rng)
    for path, mask in random_masks(model, rng, 0.3, 0.3).items():
        weight = next(weight for weight in all_prunable_weights(model) if weight.path == path)
        weight.variable.assign(np.asarray(weight.variable) * mask)
    small, x = shrink(model), rng.normal(size=(4, 9, 9, 3)).astype("float32")
    assert small.count_params() < model.count_params()
    (output,), (expected,) = outputs_of(small, x), outputs_of(model, x)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_weights_that_are_zero_but_not_masked_may_still_learn(either_keras):
    model = chain(either_keras)
    masks = {weight.path: np.ones(weight.shape, bool) for weight in all_prunable_weights(model)}
    masks["b/kernel"][:, :4] = False
    pruned = force_tf.apply_masks(model, masks)
    pruned.get_layer("c").layer.kernel.assign(np.zeros((10, 8)))
    small = shrink(pruned)
    assert {path: mask.shape for path, mask in force_tf.get_masks(small).items()} == {
        "a/kernel": (6, 12),
        "b/kernel": (12, 6),
        "c/kernel": (6, 8),
        "logits/kernel": (8, 3),
    }
    # Without masks nothing is going to be trained, and the zeros are what the function is.
    with pytest.raises(CollapsedError):
        shrink(force_tf.strip_pruning(pruned))


def test_files_of_shrunk_models(either_keras, tmp_path):
    rng = np.random.default_rng(1)
    model = randomized(convolutions(either_keras), rng)
    small = shrink(force_tf.apply_masks(model, random_masks(model, rng, 0.3, 0.3)))
    small.save(tmp_path / "small.keras")
    loaded = either_keras.models.load_model(tmp_path / "small.keras")
    assert_same_function(small, loaded, inputs_for(model, rng))
    assert force_tf.get_masks(loaded) == force_tf.get_masks(small)


def test_nothing_to_remove_is_a_note(either_keras):
    model = chain(either_keras)
    with pytest.warns(UserWarning, match="Every channel of the model 'chain' is needed"):
        same = shrink(model)
    assert same is not model
    assert_same_function(model, same, np.ones((2, 6)))


def test_a_collapsed_network_is_an_error(either_keras):
    model = chain(either_keras)
    model.get_layer("b").kernel.assign(np.zeros((12, 10)))
    with pytest.raises(CollapsedError, match=r"outputs depend on its inputs.*Received: 'chain', which has collapsed"):
        shrink(model)


def test_what_cannot_be_rebuilt_says_what_is_missing(either_keras):
    model = without_graph(either_keras)
    with pytest.raises(ValueError, match=r"Expected a Functional or Sequential model.*Received: 'subclassed'"):
        shrink(model)
    with pytest.raises(ValueError, match=r"[Bb]uil"):
        shrink(either_keras.Sequential([either_keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match=r"Expected a model of keras or tf_keras. Received: str"):
        shrink("model.keras")
