"""`shrink` of layers with channels inside or groups of them: recurrent ones, attention, normalizations, operations."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import force_tf
from force_tf import shrink
from force_tf.models.paths import sub_layers
from force_tf.models.prunable import all_prunable_weights
from helpers.shrinking import (
    SETTINGS,
    Examples,
    assert_same_function,
    inputs_for,
    randomized,
    unit_masks,
    with_zeros,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Every channel of the model"),
    pytest.mark.usefixtures("float64"),
]


def recurrent(keras):
    """Every kind of recurrent layer, with constants that go into biases, some of which are not there yet."""
    layers = keras.layers
    stack = [
        layers.Dense(5, "sigmoid", name="constants"),
        layers.LSTM(6, "relu", "hard_sigmoid", return_sequences=True, use_bias=False, name="lstm"),
        layers.GRU(6, return_sequences=True, go_backwards=True, dropout=0.5, name="gru"),
        layers.Dense(4, "sigmoid", name="more_constants"),
        layers.GRU(5, return_sequences=True, reset_after=False, use_bias=False, name="gru_before"),
        layers.SimpleRNN(5, name="simple"),
        layers.Dense(2, name="logits"),
    ]
    return keras.Sequential([keras.Input((3, 3)), *stack], name="recurrent")


def attention(keras):
    """Attention to itself in a residual branch and, without biases and with other sizes, to another tensor."""
    layers = keras.layers
    inputs = keras.Input((4, 5))
    x = layers.Dense(6, "relu", name="embedding")(inputs)
    y = layers.LayerNormalization(name="norm")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 2, name="attention")(y, y)])
    memory = layers.Dense(5, "relu", name="memory")(inputs)
    cross = layers.MultiHeadAttention(3, 2, value_dim=3, dropout=0.1, use_bias=False, output_shape=7, name="cross")
    x = layers.Concatenate()([x, cross(x, memory)])
    x = layers.Dense(6, "tanh", name="hidden")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(2, name="logits")(x), name="attention")


def relu(keras, x):
    return keras.ops.relu(x) if keras is keras3 else tf.nn.relu(x)


def normalized(keras):
    """Normalizations by group, channel and position, and operations between layers."""
    layers = keras.layers
    inputs = keras.Input((5, 5, 2))
    x = layers.Rescaling(0.5, -0.1)(layers.Conv2D(8, 1, activation="relu", name="first")(inputs))
    x = relu(keras, layers.GroupNormalization(4, name="groups")(x) * 2.0 + 0.25)
    x = layers.Conv2D(6, 2, name="second")(x)
    x = layers.GroupNormalization(-1, name="instance")(x) / 3
    x = layers.LayerNormalization(axis=[1, 2], center=False, name="positions")(layers.Conv2D(6, 1, name="third")(x))
    y = layers.LayerNormalization(name="channels")(layers.Conv2D(5, 1, name="fourth")(x))
    x = -(x**2) * layers.Conv2D(6, 1, activation="sigmoid", name="gate")(y) + x
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)), name="normalized")


NETWORKS = [recurrent, attention, normalized]
EXAMPLES = {"seed": st.integers(0, 2**16), "sparsity": st.sampled_from([0.0, 0.6]), "dead": st.sampled_from([0.2, 0.5])}


@pytest.mark.parametrize("network", NETWORKS)
def test_plain_models_compute_the_same(either_keras, network):
    examples = Examples()

    @settings(SETTINGS, max_examples=3)
    @given(**EXAMPLES)
    def check(seed, sparsity, dead):
        rng = np.random.default_rng(seed)
        model = with_zeros(randomized(network(either_keras), rng), rng)
        masks = unit_masks(model, rng, sparsity, dead)
        for weight in all_prunable_weights(model):
            weight.variable.assign(np.asarray(weight.variable) * masks[weight.path])
        x = inputs_for(model, rng)
        small = examples.shrink(model, x)
        assert_same_function(model, small, x)
        assert small.count_params() <= model.count_params() + 50  # biases may be new
        assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]

    check()
    examples.check()


@pytest.mark.parametrize("network", NETWORKS)
def test_wrapped_models_come_back_wrapped(either_keras, network):
    examples = Examples()

    @settings(SETTINGS, max_examples=2)
    @given(**EXAMPLES)
    def check(seed, sparsity, dead):
        rng = np.random.default_rng(seed)
        model = with_zeros(randomized(network(either_keras), rng), rng)
        pruned = force_tf.apply_masks(model, unit_masks(model, rng, sparsity, dead))
        x = inputs_for(model, rng)
        small = examples.shrink(pruned, x)
        assert_same_function(pruned, small, x)
        assert list(force_tf.get_masks(small)) == list(force_tf.get_masks(pruned))

    check()
    examples.check()


@pytest.mark.parametrize("network", NETWORKS)
def test_pruned_channels_are_those_that_go(either_keras, network):
    rng = np.random.default_rng(0)
    model = network(either_keras)
    data = rng.normal(size=(8, *model.input_shape[1:])), rng.normal(size=(8, 2))
    pruner = force_tf.PruneAtInit("snip", 0.5, scope="layer", granularity="channel")
    pruned = pruner.prune(model, data, either_keras.losses.MeanSquaredError(), verbose=0)
    small = shrink(pruned)
    masks = force_tf.get_masks(small)
    assert masks.kept == masks.total == force_tf.get_masks(pruned).kept < 0.55 * force_tf.get_masks(pruned).total
    assert_same_function(pruned, small, data[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_shrunk_models_train_and_are_files(either_keras, network, tmp_path):
    rng = np.random.default_rng(3)
    model = with_zeros(randomized(network(either_keras), rng), rng)
    if network is attention:
        model.compile("adam", "mse", jit_compile=False)
    pruned = force_tf.apply_masks(model, unit_masks(model, rng, 0.2, 0.3))
    small = shrink(pruned)
    assert small.count_params() < pruned.count_params()
    x = inputs_for(model, rng)
    if network is attention:  # the others take long to trace
        small.fit(x, np.zeros((4, 2)), verbose=0)
    small.save(tmp_path / "small.keras")
    assert_same_function(small, either_keras.models.load_model(tmp_path / "small.keras"), x)


@pytest.mark.parametrize(
    ("kind", "gates", "biases", "options"),
    [
        ("LSTM", 4, 1, {}),
        ("GRU", 3, 2, {}),
        ("GRU", 3, 1, {"reset_after": False}),
        ("SimpleRNN", 1, 1, {}),
    ],
)
@pytest.mark.parametrize("sequences", [False, True])
def test_recurrent_units_by_hand(either_keras, kind, gates, biases, options, sequences):
    layers = either_keras.layers
    layer = getattr(layers, kind)(5, name="units", return_sequences=sequences, **options)
    model = either_keras.Sequential([either_keras.Input((3, 2)), layer, layers.Dense(1, name="logits")])
    rng = np.random.default_rng(0)
    # Unit 0 is read by the logits, 1 by unit 0, and 2 by itself alone; 3 is zero, and so is 4, which reads only 3.
    reads = rng.normal(size=(2, gates, 5)) * [1, 1, 1, 0, 0]
    state = rng.normal(size=(5, gates, 5)) * np.array(
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 0, 1], [1, 1, 1, 0, 0]]
    ).reshape(5, 1, 5)
    layer.cell.kernel.assign(reads.reshape(2, -1))
    layer.cell.recurrent_kernel.assign(state.reshape(5, -1))
    model.layers[-1].kernel.assign([[1.0], [0], [0], [2], [3]])
    small = shrink(model)
    # Two units with two inputs, and the logits with two weights, one of them zero: unit 1 only feeds unit 0.
    assert small.count_params() == gates * 2 * (2 + 2 + biases) + 2 + 1
    assert_same_function(model, small, rng.normal(size=(4, 3, 2)))


@pytest.mark.parametrize(("kind", "bias"), [("LSTM", (24,)), ("GRU", (2, 18)), ("SimpleRNN", (6,))])
def test_constants_go_into_the_bias_of_recurrent_layers(either_keras, kind, bias):
    layers = either_keras.layers
    first, units = layers.Dense(3, name="first"), getattr(layers, kind)(6, use_bias=False, name="units")
    model = either_keras.Sequential([either_keras.Input((4, 2)), first, units, layers.Dense(1, name="logits")])
    first.kernel.assign([[1.0, 0, 2], [-1, 0, 1]])
    first.bias.assign([0.5, -2, 0])
    small = shrink(model)
    assert small.get_layer("first").units == 2
    assert tuple(small.get_layer("units").cell.bias.shape) == bias
    assert_same_function(model, small, np.random.default_rng(0).normal(size=(4, 4, 2)))


def test_what_keeps_a_state_keeps_its_units(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((3, 2))
    x, state = layers.GRU(4, return_state=True, name="gru")(inputs)
    model = either_keras.Model(inputs, layers.Dense(1)(layers.Concatenate()([x, state])))
    model.get_layer("gru").cell.kernel.assign(np.zeros((2, 12)))
    model.get_layer("gru").cell.recurrent_kernel.assign(np.zeros((4, 12)))
    assert shrink(model).count_params() == model.count_params()


def test_heads_by_hand(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((3, 6))
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    model = either_keras.Model(inputs, layers.Dense(1, name="logits")(attention(inputs, inputs)))
    randomized(model, rng := np.random.default_rng(0))
    parts = {part.name: part for part in sub_layers(attention)}
    # Nothing reads head 1. The value of head 2 is its bias, and that of the others has weights.
    parts["attention_output"].kernel.assign(rng.normal(size=(4, 2, 6)) * np.array([1, 0, 1, 1]).reshape(4, 1, 1))
    parts["value"].kernel.assign(rng.normal(size=(6, 4, 2)) * np.array([1, 1, 0, 1]).reshape(1, 4, 1))
    small = shrink(model)
    # Of each head the kernels and biases of query, key and value, and its rows of the output; then the output's bias.
    assert small.get_layer("attention").count_params() == 2 * (3 * (6 * 2 + 2) + 2 * 6) + 6
    assert_same_function(model, small, rng.normal(size=(4, 3, 6)))


def test_a_head_stays_although_none_is_of_use(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((3, 4))
    attention = layers.MultiHeadAttention(3, 2, name="attention")
    model = either_keras.Model(inputs, layers.Dense(1)(layers.Add()([inputs, attention(inputs, inputs)])))
    randomized(model, rng := np.random.default_rng(0))
    next(part for part in sub_layers(attention) if part.name == "value").kernel.assign(np.zeros((4, 3, 2)))
    small = shrink(model)
    assert small.get_layer("attention").get_config()["num_heads"] == 1
    assert_same_function(model, small, rng.normal(size=(4, 3, 4)))


def test_attention_to_nothing(either_keras):
    """Where all keys are masked, the weights may all be zero: then a constant value has no constant output."""
    layers = either_keras.layers
    inputs, mask = either_keras.Input((3, 4)), either_keras.Input((3, 3), dtype="bool")
    attention = layers.MultiHeadAttention(3, 2, dropout=0.2, name="attention")
    model = either_keras.Model([inputs, mask], layers.Dense(1)(attention(inputs, inputs, attention_mask=mask)))
    randomized(model, rng := np.random.default_rng(0))
    value = next(part for part in sub_layers(attention) if part.name == "value")
    value.kernel.assign(rng.normal(size=(4, 3, 2)) * np.array([1, 0, 0]).reshape(1, 3, 1))
    value.bias.assign([[1.0, 2], [3, 4], [0, 0]])
    small = shrink(model)
    assert small.get_layer("attention").get_config()["num_heads"] < 3
    given = [tf.constant(rng.normal(size=(2, 3, 4))), tf.constant(np.arange(18).reshape(2, 3, 3) > 5)]
    np.testing.assert_allclose(small(given), model(given), rtol=1e-10)


def test_groups_by_hand(either_keras):
    layers = either_keras.layers
    first, groups = layers.Conv2D(8, 1, name="first"), layers.GroupNormalization(4, name="groups")
    last = layers.Conv2D(3, 1, name="last")
    model = either_keras.Sequential([either_keras.Input((4, 4, 2)), first, groups, last])
    randomized(model, rng := np.random.default_rng(0))
    # Nothing reads the second group; the third has no scale; of the last one the first channel is read.
    last.kernel.assign(rng.normal(size=(1, 1, 8, 3)) * np.array([1, 1, 0, 0, 1, 1, 1, 0]).reshape(1, 1, 8, 1))
    groups.gamma.assign([1.0, 2, 3, 4, 0, 0, 5, 6])
    small = shrink(model)
    assert (small.get_layer("groups").groups, small.get_layer("first").filters) == (2, 4)
    assert small.count_params() == (2 * 4 + 4) + 2 * 4 + (4 * 3 + 3)
    assert_same_function(model, small, rng.normal(size=(2, 4, 4, 2)))


def test_channels_of_other_normalizations_by_hand(either_keras):
    layers = either_keras.layers
    first, norm = layers.Dense(4, name="first"), layers.LayerNormalization(axis=1, name="positions")
    channels, last = layers.LayerNormalization(name="channels"), layers.Dense(2, name="last")
    model = either_keras.Sequential([either_keras.Input((5, 3)), first, norm, layers.Dense(4), channels, last])
    randomized(model, rng := np.random.default_rng(0))
    norm.beta.assign(np.full(5, 0.5))
    first.kernel.assign(rng.normal(size=(3, 4)) * [1, 0, 1, 1])
    channels.gamma.assign([1.0, 0, 0, 2])
    small = shrink(model)
    # A channel of the first layer is constant. Those of the last normalization stay, whatever becomes of them.
    assert [layer.count_params() for layer in small.layers] == [3 * 3 + 3, 5 * 2, 3 * 4 + 4, 2 * 4, 4 * 2 + 2]
    np.testing.assert_array_equal(np.asarray(small.get_layer("last").kernel)[[0, 3]], np.asarray(last.kernel)[[0, 3]])
    assert_same_function(model, small, rng.normal(size=(2, 5, 3)))


def test_operations_by_hand(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((3,))
    first, last = layers.Dense(4, "relu", name="first"), layers.Dense(1, name="last")
    model = either_keras.Model(inputs, last(relu(either_keras, first(inputs) * 3.0 - 1)))
    first.kernel.assign([[1.0, 2, 0, 0], [3, 4, 0, 0], [5, 6, 0, 0]])
    first.bias.assign([0.0, 0, 2, -1])
    last.kernel.assign([[1.0], [0], [10], [10]])
    small = shrink(model)
    # The two constants are relu(2 * 3 - 1) = 5 and relu(0 * 3 - 1) = 0.
    assert small.count_params() == 3 + 1 + 1 + 1
    np.testing.assert_array_equal(small.get_layer("last").bias, [50.0])
    assert_same_function(model, small, np.random.default_rng(0).normal(size=(4, 3)))


@pytest.mark.parametrize(("noise_shape", "units"), [((None, 1, 4), 4), ((None, 1, None), 3), ((4, 2, 1), 3)])
def test_dropout_that_names_its_channels_keeps_them(either_keras, noise_shape, units):
    layers = either_keras.layers
    first, last = layers.Dense(4, name="first"), layers.Dense(2, name="last")
    model = either_keras.Sequential([either_keras.Input((2, 3)), first, layers.Dropout(0.5, noise_shape), last])
    randomized(model, rng := np.random.default_rng(0))
    last.kernel.assign(np.asarray(last.kernel) * [[1], [0], [1], [1]])
    small = shrink(model)
    assert small.get_layer("first").units == units
    x = rng.normal(size=(4, 2, 3))
    assert_same_function(model, small, x)
    assert small(x, training=True).shape == (4, 2, 2)


def test_batch_normalization_of_tf_keras_that_renormalizes(either_keras):
    if either_keras is keras3:
        pytest.skip("Keras 3 has no renorm")
    layers = either_keras.layers
    first, last = layers.Dense(4, name="first"), layers.Dense(2, name="last")
    model = either_keras.Sequential([either_keras.Input((3,)), first, layers.BatchNormalization(renorm=True), last])
    randomized(model, rng := np.random.default_rng(0))
    last.kernel.assign(np.asarray(last.kernel) * [[1], [0], [1], [1]])
    small = shrink(model)
    assert small.get_layer("first").units == 3
    assert_same_function(model, small, rng.normal(size=(4, 3)))


def test_operations_with_arrays_keep_their_channels(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((3,))
    first, last = layers.Dense(4, "relu", name="first"), layers.Dense(1, name="last")
    model = either_keras.Model(inputs, last(first(inputs) * np.array([1.0, 2, 3, 4])))
    last.kernel.assign([[1.0], [0], [0], [2]])
    assert shrink(model).count_params() == model.count_params()
