"""The same model in Keras 3 and in tf_keras: the same paths, the same masks; and what mixes the two is refused."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

import force_tf
from force_tf.search.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks at high sparsity


def recurrent(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(11, 6, name="words"),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="lstm"), name="both"),
            layers.GRU(5, return_sequences=True, name="gru"),
            layers.RNN(
                layers.StackedRNNCells(
                    [layers.SimpleRNNCell(4, name="low"), layers.LSTMCell(3, name="high")], name="stacked_rnn_cells"
                ),
                return_sequences=True,
                name="stack",
            ),
            layers.TimeDistributed(layers.Dense(4, name="step"), name="steps"),
            layers.SimpleRNN(3, name="rnn"),
            layers.Dense(3, name="head"),
        ]
    )


def attention(keras):
    layers = keras.layers
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 6, name="words")(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3, name="attention")(x, x)])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 7), activation="tanh", name="einsum")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)))


def convolutions(keras):
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(5, 2, name="separable"),
            layers.Conv2DTranspose(3, 2, name="transpose"),
        ],
        name="inner",
    )
    inputs = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(name="norm")(inner(inputs))
    x = layers.Reshape((36, 3))(x)
    x = layers.Conv1D(4, 3, activation="relu", name="conv1d")(x)
    x = layers.DepthwiseConv1D(3, name="depthwise1d")(x)
    x = layers.SeparableConv1D(4, 3, name="separable1d")(x)
    x = layers.Conv1DTranspose(2, 2, name="transpose1d")(x)
    x = layers.Reshape((31, 1, 1, 2))(x)
    x = layers.Conv3D(3, (2, 1, 1), name="conv3d")(x)
    x = layers.Conv3DTranspose(2, (1, 2, 1), name="transpose3d")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


# Everything that can be pruned, in model order.
PATHS = {
    recurrent: [
        "words/embeddings",
        "both/forward_lstm/lstm_cell/kernel",
        "both/forward_lstm/lstm_cell/recurrent_kernel",
        "both/backward_lstm/lstm_cell/kernel",
        "both/backward_lstm/lstm_cell/recurrent_kernel",
        "gru/gru_cell/kernel",
        "gru/gru_cell/recurrent_kernel",
        "stack/stacked_rnn_cells/low/kernel",
        "stack/stacked_rnn_cells/low/recurrent_kernel",
        "stack/stacked_rnn_cells/high/kernel",
        "stack/stacked_rnn_cells/high/recurrent_kernel",
        "steps/step/kernel",
        "rnn/simple_rnn_cell/kernel",
        "rnn/simple_rnn_cell/recurrent_kernel",
        "head/kernel",
    ],
    attention: [
        "words/embeddings",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "einsum/kernel",
        "head/kernel",
    ],
    convolutions: [
        "inner/conv/kernel",
        "inner/depthwise/kernel",
        "inner/separable/pointwise_kernel",
        "inner/separable/depthwise_kernel",
        "inner/transpose/kernel",
        "conv1d/kernel",
        "depthwise1d/kernel",
        "separable1d/pointwise_kernel",
        "separable1d/depthwise_kernel",
        "transpose1d/kernel",
        "conv3d/kernel",
        "transpose3d/kernel",
        "head/kernel",
    ],
}


@functools.cache
def float64_models(build):
    """One architecture in both Kerases, in float64, with equal random weights."""
    models = []
    for module in (keras, tf_keras):
        floatx = module.backend.floatx()
        policy = keras.config.dtype_policy()  # Keras 3 makes one when first asked, and keeps it
        module.backend.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        tf_keras.mixed_precision.set_global_policy("float64")  # once one is set, tf_keras looks at it alone
        try:
            models.append(build(module))
        finally:
            module.backend.set_floatx(floatx)
            keras.config.set_dtype_policy(policy)
            tf_keras.mixed_precision.set_global_policy(None)
    random = np.random.default_rng(0)
    values = [random.uniform(0.1, 0.5, w.shape) * random.choice([-1, 1], w.shape) for w in models[0].get_weights()]
    for model in models:
        model.set_weights(values)
    return models


def batches_for(model):
    random = np.random.default_rng(1)
    shape = (6, *model.input_shape[1:])
    draw = random.standard_normal if len(shape) > 2 else lambda shape: random.integers(0, 11, shape)
    return [(draw(shape), random.integers(0, 3, 6)) for _ in range(5)]


@pytest.mark.parametrize("build", PATHS)
def test_paths_are_the_same(build):
    pruner = force_tf.PruneAtInit("magnitude", sparsity=0.5, layers=lambda layer: True)
    for model in float64_models(build):
        assert list(pruner.find_masks(model, verbose=0)) == PATHS[build], type(model).__module__


def cases():
    """Every architecture and method. Recurrent layers take long to trace, most methods slow; PX follows ReLUs."""
    for build in PATHS:
        for method in PRESETS:
            if method == "px" and build is not convolutions:
                continue
            slow = build is recurrent and method not in ("force", "synflow", "random")
            yield pytest.param(build, method, id=f"{build.__name__}-{method}", marks=[pytest.mark.slow] if slow else [])


# SynFlow's input of ones is the same at every position, and so is what attention makes of any query and key.
@pytest.mark.filterwarnings("ignore:All scores of attention/query/kernel:force_tf.ZeroScoresWarning")
@pytest.mark.filterwarnings("ignore:All scores of conv1d/kernel:force_tf.ZeroScoresWarning")  # PX in three steps
@pytest.mark.parametrize(("build", "method"), list(cases()))
def test_masks_are_the_same(build, method):
    new, legacy = float64_models(build)
    pruner = force_tf.PruneAtInit(method, sparsity=0.7, steps=3, seed=0)
    masks = []
    for model in (new, legacy):
        loss = force_tf.models.keras_models.keras_of(model).losses.SparseCategoricalCrossentropy(from_logits=True)
        masks.append(pruner.find_masks(model, batches_for(model), loss, verbose=0))
    assert masks[0] == masks[1], f"overlap {masks[0].intersection_over_union(masks[1])}"


def other(module):
    return tf_keras if module is keras else keras


def small_model(module):
    model = module.Sequential([module.Input((4,)), module.layers.Dense(3, name="head")])
    model.compile("sgd", module.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


DATA = (np.eye(4, dtype="float32"), np.array([0, 1, 2, 0]))


def test_a_loss_of_the_other_keras_is_refused(either_keras):
    model, wrong = small_model(either_keras), other(either_keras).losses.MeanSquaredError()
    message = (
        f"^Expected `loss` to be of the same Keras as the model: make it with `{either_keras.__name__}` instead. "
        f"Received: a model '{model.name}' of {either_keras.__name__} and "
        f"loss=MeanSquaredError of {other(either_keras).__name__}$"
    )
    with pytest.raises(TypeError, match=message):
        force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(model, DATA, wrong, verbose=0)


@pytest.mark.parametrize("loss", [None, "sparse_categorical_crossentropy", "function"])
def test_forms_of_loss(either_keras, loss):
    model = small_model(either_keras)
    loss = either_keras.losses.sparse_categorical_crossentropy if loss == "function" else loss
    masks = force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(model, DATA, loss, verbose=0)
    assert masks.kept == 6


def test_a_sequence_of_tf_keras_is_data():
    class Rows(tf_keras.utils.Sequence):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return DATA[0][2 * index : 2 * index + 2], DATA[1][2 * index : 2 * index + 2]

    pruner = force_tf.PruneAtInit("force", sparsity=0.5, steps=5)  # starts over twice
    model = small_model(tf_keras)
    batches = [(DATA[0][i : i + 2], DATA[1][i : i + 2]) for i in (0, 2)]
    assert pruner.find_masks(model, Rows(), verbose=0) == pruner.find_masks(model, batches, verbose=0)


CODE = """
import os, sys, keras, numpy as np, tensorflow as tf
before = set(sys.modules)
import force_tf
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse")
data = (np.ones((4, 4)), np.ones((4, 3)))
pruned = force_tf.PruneAtInit("snip", sparsity=0.5).prune(model, data, verbose=0)
pruned.fit(*data, verbose=0)
force_tf.strip_pruning(pruned)
heavy = {"tensorflow_model_optimization", "tf_keras", "tensorflow_datasets", "matplotlib", "sklearn"}
loaded = heavy & (set(sys.modules) - before)
assert not loaded, loaded
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert tf.keras.Model is keras.Model
"""


def test_pruning_a_keras_3_model_loads_neither_tfmot_nor_tf_keras():
    """In a process of its own, since the other tests load them."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
