"""Weights of a TFLite file go by the paths that they have in the Keras model."""

import keras
import numpy as np
import pytest

from force_tf.export import export_tflite, flatbuffer
from force_tf.export.tensor_names import shortened, with_keras_names


def names_of(model, folder, **arguments):
    report = export_tflite(model, folder / "model.tflite", verbose=False, **arguments)
    stored = flatbuffer.weights_of(flatbuffer.parse((folder / "model.tflite").read_bytes()))
    assert [weight.name for weight in stored] == [tensor.name for tensor in report.tensors]
    assert len({tensor.name for tensor in report.tensors}) == len(report.tensors)
    return {tensor.name: tensor.shape for tensor in report.tensors}


def with_random_weights(model, keras):
    """Sparse kernels of several magnitudes, and nothing that is alike."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    for variable in model.trainable_variables:
        shape = tuple(variable.shape)
        value = rng.standard_normal(shape) * (rng.random(shape) > 0.5 if len(shape) > 1 else 1)
        variable.assign(value)
    for variable in model.non_trainable_variables:
        variable.assign(0.5 + rng.random(tuple(variable.shape)))
    return model


@pytest.mark.long
@pytest.mark.parametrize("quantize", [None, "float16", "dynamic", "int8"])
def test_kernels_of_one_shape_are_told_apart_in_every_quantization(either_keras, quantize, tmp_path):
    layers = either_keras.layers
    inner = either_keras.Sequential([either_keras.Input((8,)), layers.Dense(8, name="d"), layers.ReLU()], name="inner")
    inputs = x = either_keras.Input((12, 12, 3))
    x = layers.ReLU(6)(layers.BatchNormalization(name="bn")(layers.Conv2D(8, 3, use_bias=False, name="conv")(x)))
    x = layers.ReLU()(layers.DepthwiseConv2D(3, name="depthwise")(x))
    x = layers.Conv2DTranspose(8, 3, activation="relu", name="up")(x)
    x = inner(layers.GlobalAveragePooling2D()(x))
    shared = layers.Dense(8, "relu", name="shared")
    x = layers.Add()([inner(layers.Dense(8, "relu", name="d")(x)), shared(shared(x))])
    model = with_random_weights(either_keras.Model(inputs, layers.Dense(3, name="out")(x)), either_keras)
    data = np.random.default_rng(1).random((20, 12, 12, 3)).astype("float32")
    calibration = {"representative_data": data} if quantize == "int8" else {"tolerance": 10}
    names = names_of(model, tmp_path, quantize=quantize, **calibration)
    kernels = {
        "conv/kernel": (8, 3, 3, 3),
        "depthwise/kernel": (1, 3, 3, 8),
        "up/kernel": (8, 3, 3, 8),
        "inner/d/kernel": (8, 8),
        "d/kernel": (8, 8),
        "shared/kernel": (8, 8),
        "out/kernel": (3, 8),
    }
    offsets = dict.fromkeys(("depthwise/bias", "up/bias", "inner/d/bias", "d/bias", "shared/bias", "bn/beta"), (8,))
    if quantize == "int8":  # its offsets are integers of 32 bits, which are not counted as weights
        offsets = {}
    else:
        offsets["out/bias"] = (3,)
    assert {name: shape for name, shape in names.items() if "#" not in name} == kernels | offsets


def test_gates_einsum_kernels_and_epsilons(either_keras, tmp_path):
    layers = either_keras.layers
    inputs = x = either_keras.Input((5, 8))
    x = layers.LayerNormalization(name="norm")(layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    x = layers.LSTM(8, name="lstm")(x)
    model = with_random_weights(either_keras.Model(inputs, layers.Dense(8, name="out")(x)), either_keras)
    names = names_of(model, tmp_path)
    kernels = {f"attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")} | {"out/kernel"}
    if either_keras is keras:
        kernels |= {"lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"}
    else:  # TFLite's own LSTM has a kernel for each gate
        gates = ("0:8", "8:16", "16:24", "24:32")
        kernels |= {f"lstm/lstm_cell/{which}[:, {gate}]" for which in ("kernel", "recurrent_kernel") for gate in gates}
    assert kernels <= set(names)
    assert {"norm/gamma", "norm/beta", "attention/query/bias"} <= set(names)
    assert all(name.split("/")[0] in ("attention", "norm", "lstm", "out") for name in names if "/" in name), names


def test_layers_of_subclassed_models_with_weights_of_their_own(either_keras, tmp_path):
    layers = either_keras.layers

    class Block(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.first = layers.Dense(8, "relu", name="first")

        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(8,), initializer="ones")
            self.built = True

        def call(self, x):
            return self.first(x) * self.scale

    class Network(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(name="a"), Block(name="b")]

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    model = Network()
    data = np.random.default_rng(0).random((4, 8)).astype("float32")
    model(data)
    names = names_of(with_random_weights(model, either_keras), tmp_path, verify_data=data)
    expected = {f"{block}/{name}" for block in "ab" for name in ("first/kernel", "first/bias", "scale")}
    assert set(names) == expected - {"a/scale"}, "which the converter folds into the next kernel"


def test_empty_kernels_and_zero_biases_are_named_by_their_layers(tmp_path):
    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8, "relu", name=name) for name in "abc")])
    model.get_layer("b").kernel.assign(np.zeros((8, 8)))
    names = names_of(model, tmp_path)
    assert {"a/kernel", "b/kernel", "c/kernel"} <= set(names), names


def test_inputs_and_outputs_keep_their_names(tmp_path):
    model = keras.Sequential([keras.Input((8,), name="x"), keras.layers.Dense(8, name="y")])
    report = export_tflite(model, tmp_path / "model.tflite", verbose=False)
    graph = flatbuffer.parse((tmp_path / "model.tflite").read_bytes()).subgraphs[0]
    assert [graph.tensors[index].name.decode() for index in graph.inputs] == ["serving_default_x:0"]
    assert max(len(tensor.name) for tensor in report.tensors) <= 8


def test_what_no_weight_explains_keeps_a_short_name():
    name = "functional_1_1/" + ";".join(["functional_1_1/very/long/layer_name_of_the_converter_that_goes_on"] * 8)
    assert shortened(name) == f"…{name.split(';')[0][-47:]}"
    assert shortened("model/a/Relu;model/a/BiasAdd") == "model/a/Relu"


def test_nothing_but_names_changes(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="dense")])
    export_tflite(model, tmp_path / "model.tflite", sparse=False, verbose=False)
    content = (tmp_path / "model.tflite").read_bytes()
    renamed = with_keras_names(content, ["other/kernel", "other/bias"], [w.numpy() for w in model.weights])
    before, after = (flatbuffer.parse(data) for data in (content, renamed))
    for old, new in zip(flatbuffer.weights_of(before), flatbuffer.weights_of(after), strict=True):
        np.testing.assert_array_equal(old.values, new.values)
        assert new.name == old.name.replace("dense", "other")
