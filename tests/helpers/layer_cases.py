"""A case for every layer of Keras 3 with weights that can be pruned."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

layers = keras.layers
HEAD = "head/kernel"


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, the shape of its input without the batch, and the paths of its weights.

    Attributes:
        layer: Makes the layer, named "it".
        shape: The shape of one input.
        pruned: The paths that are pruned by default.
        opt_in: The paths that join with `layers=`.
        call: How the layer is called on its input.
        indices: Whether the inputs are indices below 5.
    """

    layer: Callable[[], keras.layers.Layer]
    shape: tuple[int, ...]
    pruned: tuple[str, ...] = ()
    opt_in: tuple[str, ...] = ()
    call: Callable = lambda layer, inputs: layer(inputs)
    indices: bool = False


IMAGE, SEQUENCE, VIDEO = (5, 5, 2), (6, 3), (4, 4, 4, 2)
KERNEL = ("it/kernel",)
SEPARABLE = (("it/pointwise_kernel",), ("it/depthwise_kernel",))
PROJECTIONS = ("it/query/kernel", "it/key/kernel", "it/value/kernel", "it/attention_output/kernel")


def both(*owners):
    return tuple(f"{owner}/{kernel}" for owner in owners for kernel in ("kernel", "recurrent_kernel"))


def attend_to_itself(layer, inputs):
    return layer(inputs, inputs)


CASES = {
    "Dense": Case(lambda: layers.Dense(4, name="it"), (3,), KERNEL),
    "EinsumDense": Case(lambda: layers.EinsumDense("abc,cd->abd", (6, 4), name="it"), SEQUENCE, KERNEL),
    "Conv1D": Case(lambda: layers.Conv1D(4, 3, name="it"), SEQUENCE, KERNEL),
    "Conv2D": Case(lambda: layers.Conv2D(4, 3, groups=2, name="it"), IMAGE, KERNEL),
    "Conv3D": Case(lambda: layers.Conv3D(4, 2, name="it"), VIDEO, KERNEL),
    "Conv1DTranspose": Case(lambda: layers.Conv1DTranspose(4, 3, name="it"), SEQUENCE, KERNEL),
    "Conv2DTranspose": Case(lambda: layers.Conv2DTranspose(4, 3, name="it"), IMAGE, KERNEL),
    "Conv3DTranspose": Case(lambda: layers.Conv3DTranspose(4, 2, name="it"), VIDEO, KERNEL),
    "DepthwiseConv1D": Case(lambda: layers.DepthwiseConv1D(3, name="it"), SEQUENCE, opt_in=KERNEL),
    "DepthwiseConv2D": Case(lambda: layers.DepthwiseConv2D(3, name="it"), IMAGE, opt_in=KERNEL),
    "SeparableConv1D": Case(lambda: layers.SeparableConv1D(4, 3, name="it"), SEQUENCE, *SEPARABLE),
    "SeparableConv2D": Case(lambda: layers.SeparableConv2D(4, 3, name="it"), IMAGE, *SEPARABLE),
    "Embedding": Case(lambda: layers.Embedding(5, 4, name="it"), (6,), opt_in=("it/embeddings",), indices=True),
    "ReversibleEmbedding": Case(
        lambda: layers.ReversibleEmbedding(5, 4, name="it"), (6,), opt_in=("it/embeddings",), indices=True
    ),
    "SimpleRNN": Case(lambda: layers.SimpleRNN(4, name="it"), SEQUENCE, both("it/simple_rnn_cell")),
    "LSTM": Case(lambda: layers.LSTM(4, name="it"), SEQUENCE, both("it/lstm_cell")),
    "GRU": Case(lambda: layers.GRU(4, name="it"), SEQUENCE, both("it/gru_cell")),
    "RNN": Case(lambda: layers.RNN(layers.GRUCell(4, name="cell"), name="it"), SEQUENCE, both("it/cell")),
    "StackedRNNCells": Case(
        lambda: layers.RNN(
            layers.StackedRNNCells([layers.LSTMCell(4, name="a"), layers.SimpleRNNCell(3, name="b")], name="stack"),
            name="it",
        ),
        SEQUENCE,
        both("it/stack/a", "it/stack/b"),
    ),
    "Bidirectional": Case(
        lambda: layers.Bidirectional(layers.LSTM(4, name="lstm"), name="it"),
        SEQUENCE,
        both("it/forward_lstm/lstm_cell", "it/backward_lstm/lstm_cell"),
    ),
    "TimeDistributed": Case(
        lambda: layers.TimeDistributed(layers.Dense(4, name="dense"), name="it"), SEQUENCE, ("it/dense/kernel",)
    ),
    "SpectralNormalization": Case(
        lambda: layers.SpectralNormalization(layers.Dense(4, name="dense"), name="it"), (3,), ("it/dense/kernel",)
    ),
    "ConvLSTM1D": Case(lambda: layers.ConvLSTM1D(2, 3, name="it"), (3, 5, 2), both("it/conv_lstm_cell")),
    "ConvLSTM2D": Case(lambda: layers.ConvLSTM2D(2, 3, name="it"), (3, 4, 4, 2), both("it/conv_lstm_cell")),
    "MultiHeadAttention": Case(
        lambda: layers.MultiHeadAttention(2, 3, name="it"), SEQUENCE, PROJECTIONS, call=attend_to_itself
    ),
    "GroupQueryAttention": Case(
        lambda: layers.GroupQueryAttention(3, 4, 2, name="it"), SEQUENCE, PROJECTIONS, call=attend_to_itself
    ),
}


def build(case):
    inputs = keras.Input(case.shape, dtype="int32" if case.indices else "float32")
    outputs = layers.Dense(2, name="head")(layers.Flatten()(case.call(case.layer(), inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
    return model


def data_for(case):
    rng = np.random.default_rng(0)
    shape = (8, *case.shape)
    x = rng.integers(0, 5, shape) if case.indices else rng.normal(size=shape).astype("float32")
    return x, rng.normal(size=(8, 2)).astype("float32")
