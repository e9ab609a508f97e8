"""What `adapt()` and `set_vocabulary()` taught a model's preprocessing layers is in every copy and every file of it."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf

WORDS = np.array([["a"], ["b c"], ["c"], ["a"], ["d a"], ["b c"], ["a"], ["e"]] * 4)
NUMBERS = np.array([[7], [3], [3], [9], [7], [7], [1], [2]] * 4)
REALS = np.random.default_rng(0).normal(3, 2, (32, 1)).astype("float32")


def adapted(layer, data):
    layer.adapt(data)
    return layer


def taught(layer, words):
    layer.set_vocabulary(words)
    return layer


def lookup(kind, **options):
    data = WORDS if kind == "StringLookup" else NUMBERS
    return lambda layers: adapted(getattr(layers, kind)(**options), data), data


def vectorization(**options):
    return lambda layers: adapted(layers.TextVectorization(**options), WORDS[:, 0]), WORDS


# A layer, and what it is called on.
CASES = {
    "StringLookup": lookup("StringLookup"),
    "StringLookup, inverse": (
        lambda layers: adapted(layers.StringLookup(num_oov_indices=2, mask_token=""), WORDS),
        WORDS,
    ),
    "StringLookup, one_hot": lookup("StringLookup", output_mode="one_hot"),
    "StringLookup, multi_hot": lookup("StringLookup", output_mode="multi_hot", max_tokens=9, pad_to_max_tokens=True),
    "StringLookup, count": lookup("StringLookup", output_mode="count"),
    "StringLookup, tf_idf": lookup("StringLookup", output_mode="tf_idf"),
    "StringLookup, of a list": (lambda layers: layers.StringLookup(vocabulary=["c", "a"]), WORDS),
    "StringLookup, taught anew": (lambda layers: taught(layers.StringLookup(vocabulary=["c", "a"]), ["a", "e"]), WORDS),
    "IntegerLookup": lookup("IntegerLookup"),
    "IntegerLookup, one_hot": lookup("IntegerLookup", output_mode="one_hot"),
    "IntegerLookup, tf_idf": lookup("IntegerLookup", output_mode="tf_idf", max_tokens=9, pad_to_max_tokens=True),
    "TextVectorization": vectorization(output_sequence_length=3),
    "TextVectorization, multi_hot": vectorization(output_mode="multi_hot"),
    "TextVectorization, count": vectorization(output_mode="count", ngrams=2),
    "TextVectorization, tf_idf": vectorization(output_mode="tf_idf", max_tokens=9, pad_to_max_tokens=True),
    "Discretization": (lambda layers: adapted(layers.Discretization(num_bins=5), REALS), REALS),
    "Discretization, one_hot": (
        lambda layers: adapted(layers.Discretization(num_bins=5, output_mode="one_hot"), REALS),
        REALS,
    ),
    "Discretization, of boundaries": (lambda layers: layers.Discretization([1.0, 3.0, 4.0]), REALS),
    "Normalization": (lambda layers: adapted(layers.Normalization(), REALS), REALS),
    "Normalization, of numbers": (lambda layers: layers.Normalization(mean=3.0, variance=4.0), REALS),
    "Hashing": (lambda layers: layers.Hashing(5), WORDS),
    "CategoryEncoding": (lambda layers: layers.CategoryEncoding(10, output_mode="one_hot"), NUMBERS),
}


# Plain models of Keras 3 with these layers fail in `fit`, or when they are called, before this version.
_BROKEN_BEFORE = {"TextVectorization": (3, 9), "Discretization, one_hot": (3, 15)}


# Python's bug 127847: reads of a file in an archive go wrong when other files of it are read in between, and tf_keras
# reads a vocabulary and the weights so. Its plain models do not load either.
ARCHIVES_READ_WRONGLY = (3, 12, 0) <= sys.version_info < (3, 12, 9) or (3, 13, 0) <= sys.version_info < (3, 13, 2)


def skip_where_keras_fails(module, name):
    version = tuple(map(int, module.__version__.split(".")[:2]))
    if module.__name__ == "keras" and version < _BROKEN_BEFORE.get(name, (3, 0)):
        pytest.skip(f"Keras {module.__version__} infers another shape of {name} than it computes")


def model_of(keras, make, x, nested=False):
    layers = keras.layers
    inputs = keras.Input((1,), dtype=tf.as_dtype(x.dtype).name if x.dtype.kind != "U" else "string")
    layer = make(layers)
    outputs = keras.Sequential([keras.Input((1,), dtype=inputs.dtype), layer])(inputs) if nested else layer(inputs)
    # Every number that comes out counts, indices too.
    outputs = layers.Flatten()(layers.Rescaling(1.0)(outputs))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(8, "tanh")(outputs)))
    model.compile("adam", "mse")
    return model


def outputs_of(model, x):
    return np.asarray(model(tf.constant(x)))


@pytest.mark.parametrize("name", CASES)
def test_copies_compute_the_same(either_keras, name):
    skip_where_keras_fails(either_keras, name)
    make, x = CASES[name]
    model = model_of(either_keras, make, x)
    expected = outputs_of(model, x)
    assert len(np.unique(expected)) > 1, "the model should tell its inputs apart"
    data = tf.data.Dataset.from_tensor_slices((x, np.ones((len(x), 1), "float32"))).batch(16)
    pruned = force_tf.PruneAtInit("snip", sparsity=0.0, seed=0).prune(model, data, verbose=0)  # all kept
    np.testing.assert_array_equal(outputs_of(model, x), expected, err_msg="the user's model")
    np.testing.assert_array_equal(outputs_of(pruned, x), expected, err_msg="the pruned model")
    np.testing.assert_array_equal(outputs_of(force_tf.strip_pruning(pruned), x), expected, err_msg="stripped")


@pytest.mark.parametrize("name", ["StringLookup, one_hot", "TextVectorization, tf_idf", "Discretization"])
def test_models_inside_and_copies_in_another_precision(either_keras, name):
    make, x = CASES[name]
    model = model_of(either_keras, make, x, nested=True)
    expected = outputs_of(model, x)
    masks = force_tf.PruneAtInit("synflow", sparsity=0.0, steps=1).find_masks(
        model, tf.data.Dataset.from_tensor_slices((x, np.ones((len(x), 1)))).batch(16), verbose=0
    )
    np.testing.assert_array_equal(outputs_of(force_tf.apply_masks(model, masks), x), expected)


@pytest.mark.parametrize("name", ["StringLookup", "StringLookup, taught anew", "TextVectorization", "Discretization"])
@pytest.mark.filterwarnings("ignore:Every channel of the model")
def test_files_and_shrunk_models(either_keras, name, tmp_path):
    if either_keras is not keras and ARCHIVES_READ_WRONGLY:
        pytest.skip(f"Python {sys.version.split()[0]} reads archives wrongly")
    make, x = CASES[name]
    model = model_of(either_keras, make, x)
    data = tf.data.Dataset.from_tensor_slices((x, np.ones((len(x), 1), "float32"))).batch(16)
    pruned = force_tf.PruneAtInit("magnitude", sparsity=0.3).prune(model, data, verbose=0)
    expected = outputs_of(pruned, x)
    np.testing.assert_allclose(outputs_of(force_tf.shrink(pruned), x), expected, rtol=1e-5, atol=1e-6)
    pruned.save(tmp_path / "pruned.keras")
    loaded = either_keras.models.load_model(tmp_path / "pruned.keras", compile=False)
    np.testing.assert_array_equal(outputs_of(loaded, x), expected)


def test_layers_of_the_user_with_files_of_their_own(either_keras):
    class Remembering(either_keras.layers.Layer):
        factor = 1.0

        def call(self, inputs):
            return inputs * self.factor

        def save_assets(self, dir_path):
            with open(f"{dir_path}/factor.txt", "w") as file:
                file.write(str(self.factor))

        def load_assets(self, dir_path):
            with open(f"{dir_path}/factor.txt") as file:
                self.factor = float(file.read())

    def make(layers):
        layer = Remembering()
        layer.factor = 5.0
        return layer

    model = model_of(either_keras, make, REALS)
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.0).find_masks(model, verbose=0)
    np.testing.assert_array_equal(outputs_of(force_tf.apply_masks(model, masks), REALS), outputs_of(model, REALS))
