"""`shrink` and whole channels where a layer is called on several tensors, of other widths or with other constants."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf import shrink
from force_tf.models.prunable import all_prunable_weights
from helpers.criteria import Given
from helpers.shrinking import assert_same_function, random_masks, randomized

pytestmark = [
    pytest.mark.filterwarnings("ignore:Every channel of the model"),
    pytest.mark.usefixtures("float64"),
]

# Each takes the layers of a Keras and makes what is called twice.
WITHOUT_WEIGHTS = {
    "ReLU": lambda layers: layers.ReLU(),
    "Activation": lambda layers: layers.Activation("sigmoid"),
    "Dropout": lambda layers: layers.Dropout(0.1),
    "GaussianNoise": lambda layers: layers.GaussianNoise(0.1),
    "MaxPooling2D": lambda layers: layers.MaxPooling2D(padding="same"),
    "UpSampling2D": lambda layers: layers.UpSampling2D(),
    "ZeroPadding2D": lambda layers: layers.ZeroPadding2D(),
    "Cropping2D": lambda layers: layers.Cropping2D(1),
    "Permute": lambda layers: layers.Permute((2, 1, 3)),
    "Reshape": lambda layers: layers.Reshape((4, 9, -1)),
    "Rescaling": lambda layers: layers.Rescaling(2.0, 1.0),
    "GlobalAveragePooling2D": lambda layers: layers.GlobalAveragePooling2D(keepdims=True),
    "Add": lambda layers: layers.Add(),
    "Concatenate": lambda layers: layers.Concatenate(),
    "Lambda": lambda layers: layers.Lambda(tf.square),
    "LayerNormalization": lambda layers: layers.LayerNormalization(axis=(1, 2), center=False, scale=False),
}


def two_widths(keras, make, shared):
    """A layer, or two of a kind, after a convolution of 8 channels and after one of 5."""
    layers = keras.layers
    first = make(layers)
    second = first if shared else make(layers)
    of_several = type(first).__name__ in ("Add", "Concatenate")
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="wide")(inputs)
    y = layers.Conv2D(5, 1, name="narrow")(layers.Conv2D(4, 1, activation="tanh", name="before")(inputs))
    x, y = (layer([z, z] if of_several else z) for layer, z in ((first, x), (second, y)))
    pooled = [layers.GlobalMaxPooling2D()(z) for z in (x, y)]
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.concatenate(pooled)))


@pytest.mark.parametrize("kind", WITHOUT_WEIGHTS)
def test_what_a_layer_without_weights_is_called_on_has_nothing_in_common(either_keras, kind):
    models = []
    for shared in (True, False):
        model = randomized(two_widths(either_keras, WITHOUT_WEIGHTS[kind], shared), rng := np.random.default_rng(0))
        masks = {weight.path: np.ones(weight.shape, bool) for weight in all_prunable_weights(model)}
        for name, dead in (("wide", [1, 4]), ("narrow", [2]), ("before", [0, 3])):
            masks[f"{name}/kernel"][..., dead] = False
        masks["logits/kernel"][[0, -1]] = False
        models.append(force_tf.apply_masks(model, masks))
    small, expected = map(shrink, models)
    assert [x.shape for x in small.get_weights()] == [x.shape for x in expected.get_weights()]
    assert kind == "Lambda" or small.count_params() < models[0].count_params()
    assert_same_function(models[0], small, rng.normal(size=(4, 6, 6, 3)))


@pytest.mark.parametrize("same_width", [True, False])
def test_whole_channels_on_both_sides_of_a_shared_activation_are_chosen_each_by_itself(either_keras, same_width):
    layers = either_keras.layers
    tanh = layers.Activation("tanh")
    inputs = either_keras.Input((1,))
    x = tanh(layers.Dense(3, name="a")(inputs))
    x = tanh(layers.Dense(3 if same_width else 2, name="b")(x))
    model = either_keras.Model(inputs, layers.Dense(1, name="c")(x))
    last = [[0], [9], [0]] if same_width else [[0], [9]]
    scores = [[9, 0, 0]], np.zeros((3, len(last))), last
    scores[1][0, 1] = 1
    pruner = force_tf.PruneAtInit(Given(*scores), sparsity=0.8 if same_width else 0.7, granularity="channel")
    masks = pruner.find_masks(model, verbose=0)
    # The first unit of `a` and the second of `b` are best; were they tied, it would be the same of both.
    assert masks["a/kernel"].tolist() == [[True, False, False]]
    assert masks["b/kernel"][0].tolist() == [False, True, False][: len(last)]


def test_constants_of_a_shared_layer_are_those_of_all_its_calls(either_keras):
    """The first call alone has 3 in the second channel, and both have 2 in the third."""
    layers = either_keras.layers
    inputs = either_keras.Input((1,))
    left, right = layers.Dense(3, name="left"), layers.Dense(3, name="right")
    shared = layers.Dense(1, name="shared")
    outputs = layers.Concatenate()([shared(left(inputs)), shared(right(inputs))])
    model = either_keras.Model(inputs, outputs)
    for layer, bias in ((left, [0.0, 3, 2]), (right, [0.0, 5, 2])):
        layer.kernel.assign([[1.0, 0, 0]])
        layer.bias.assign(bias)
    shared.kernel.assign([[1.0], [10], [100]])
    small = shrink(model)
    np.testing.assert_array_equal(small.get_layer("shared").kernel, [[1.0], [10]])
    np.testing.assert_array_equal(small.get_layer("shared").bias, [200.0])
    np.testing.assert_array_equal(small(np.array([[7.0]])), [[7 + 30 + 200, 7 + 50 + 200]])


def test_an_embedding_that_reads_texts_of_two_lengths(either_keras):
    layers = either_keras.layers
    question, answer = (either_keras.Input((length,), dtype="int32") for length in (3, 5))
    embedding = layers.Embedding(9, 6, name="embedding")
    pooled = [layers.GlobalAveragePooling1D()(embedding(text)) for text in (question, answer)]
    model = either_keras.Model([question, answer], layers.Dense(1, name="logits")(layers.Maximum()(pooled)))
    randomized(model, rng := np.random.default_rng(0))
    logits = model.get_layer("logits")
    logits.kernel.assign(np.asarray(logits.kernel) * [[1], [0], [1], [0], [0], [1]])
    small = shrink(model)
    assert tuple(small.get_layer("embedding").weights[0].shape) == (9, 3)
    texts = [tf.constant(rng.integers(0, 9, (4, length))) for length in (3, 5)]
    np.testing.assert_allclose(small(texts), model(texts), rtol=1e-10)


def test_attention_that_is_called_with_and_without_keys_of_their_own(either_keras):
    layers = either_keras.layers
    x, y = either_keras.Input((3, 4)), either_keras.Input((5, 4))
    attention = layers.MultiHeadAttention(3, 2, name="attention")
    model = either_keras.Model([x, y], layers.Dense(1)(layers.Add()([attention(x, x), attention(x, y, y)])))
    randomized(model, rng := np.random.default_rng(0))
    (output,) = (w for w in all_prunable_weights(model) if w.path == "attention/attention_output/kernel")
    output.variable.assign(np.asarray(output.variable) * np.array([1, 0, 1]).reshape(3, 1, 1))
    small = shrink(model)
    assert small.get_layer("attention").get_config()["num_heads"] == 2
    given = [tf.constant(rng.normal(size=(2, length, 4))) for length in (3, 5)]
    np.testing.assert_allclose(small(given), model(given), rtol=1e-10)


def test_an_embedding_that_is_the_output_too_keeps_its_channels(either_keras):
    if either_keras is not keras:
        pytest.skip("tf_keras has no ReversibleEmbedding")
    if not hasattr(keras.layers, "ReversibleEmbedding"):
        pytest.skip(f"Keras {keras.__version__} has no ReversibleEmbedding")
    layers = keras.layers
    tied = layers.ReversibleEmbedding(11, 8, name="tied")
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Dense(5, "relu", name="hidden")(tied(inputs))
    model = keras.Model(inputs, tied(layers.Dense(8, name="last")(x), reverse=True))
    randomized(model, rng := np.random.default_rng(0))
    masks = random_masks(model, rng, 0.3, 0.4)
    masks["hidden/kernel"][:] = masks["last/kernel"][:] = True
    masks["last/kernel"][[0, 2]] = False  # nothing reads these units
    pruned = force_tf.apply_masks(model, masks)
    small = shrink(pruned)
    assert [weight.shape for weight in small.get_layer("tied").layer.weights] == [(11, 8)]
    assert small.get_layer("hidden").layer.units == 3
    assert_same_function(pruned, small, rng.integers(0, 11, (4, 6)))
    left = force_tf.PruneAtInit("random", 0.2, granularity="channel", seed=0).prune(model, verbose=0)
    assert_same_function(left, shrink(left), rng.integers(0, 11, (4, 6)))


def test_a_shared_reshape_that_keeps_the_channels_once(either_keras):
    layers = either_keras.layers
    reshape = layers.Reshape((2, 4))
    inputs = either_keras.Input((3,))
    x = reshape(layers.Dense(8, name="cut_up")(inputs))  # of one axis, two
    y = reshape(layers.Dense(4, name="handed_on")(layers.RepeatVector(2)(inputs)))
    model = either_keras.Model(inputs, layers.Dense(2, name="logits")(layers.Concatenate()([y, x])))
    randomized(model, rng := np.random.default_rng(0))
    logits = model.get_layer("logits")
    logits.kernel.assign(np.asarray(logits.kernel) * np.array([[1, 0] * 4]).T)
    small = shrink(model)
    assert small.count_params() == model.count_params()
    assert_same_function(model, small, rng.normal(size=(4, 3)))
