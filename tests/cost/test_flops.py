"""`count_flops` against TensorFlow's profiler, and against products by hand for what the profiler does not know."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from examples import networks
from force_tf import count_flops
from force_tf.cost.flops import count_layers
from helpers.subclassed_models import without_graph

# The operations that multiply by weights, or tensors with each other. The profiler also counts biases and activations.
PRODUCTS = ("MatMul", "BatchMatMulV2", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput")


def profiled(model):
    """The multiply-adds for one sample that TensorFlow's profiler counts, as two operations each, and of einsums."""
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    inference = tf.function(lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    graph = inference.get_concrete_function(*specs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    options = options(options.float_operation()).with_empty_output().build()
    nodes = [tf.compat.v1.profiler.profile(graph, cmd="op", options=options)]
    count = 0
    while nodes:
        node = nodes.pop()
        nodes += node.children
        count += node.float_ops // 2 if node.name in PRODUCTS else 0
    # Einsums, which the profiler does not know, take a multiply-add for each combination of their indices.
    return count + sum(combinations(op) for op in graph.get_operations() if op.type == "Einsum")


def combinations(einsum):
    letters = einsum.get_attr("equation").decode().split("->")[0].split(",")
    letters = [part.replace("...", "XYZ"[: x.shape.rank - len(part) + 3]) for part, x in zip(letters, einsum.inputs)]
    sizes = {letter: size for part, x in zip(letters, einsum.inputs) for letter, size in zip(part, x.shape)}
    return np.prod(list(sizes.values()))


@pytest.mark.parametrize("name", ["vgg19", "resnet20"])
def test_networks_of_the_papers_as_profiled(name, either_keras):
    model = networks.build(name, (32, 32, 3), classes=10, module=either_keras)
    assert count_flops(model) == profiled(model)


def test_mobile_net_as_profiled(either_keras):
    model = either_keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None)
    assert count_flops(model) == profiled(model)


def images(keras, *layers, shape=(12, 10, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


def shared(keras):
    inputs = keras.Input((8, 8, 4))
    convolution = keras.layers.Conv2D(4, 3, padding="same")
    pooled = keras.layers.MaxPooling2D(2)(convolution(inputs))
    return keras.Model(inputs, keras.layers.Concatenate(axis=1)([convolution(convolution(pooled)), pooled]))


def any_size(keras):
    """A model inside the model that takes images of any size, and an operation that is no layer."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = keras.layers.Add()([x, keras.layers.DepthwiseConv2D(3, padding="same")(x)]) * 2.0
    backbone = keras.Model(inputs, keras.layers.Conv2D(5, 3)(x), name="backbone")
    images = keras.Input((20, 16, 3))
    features = keras.layers.GlobalAveragePooling2D()(backbone(images))
    return keras.Model(images, keras.layers.Dense(2)(features))


def attention(keras):
    """Self-attention, and cross-attention whose arguments come in another order than `call` has them."""
    query, value, key = keras.Input((5, 8)), keras.Input((7, 6)), keras.Input((7, 4))
    mask = keras.Input((5, 5), dtype="bool")
    x = keras.layers.MultiHeadAttention(2, 3, name="own")(query, query, attention_mask=mask)
    attend = keras.layers.MultiHeadAttention(3, key_dim=2, value_dim=5, output_shape=9, name="other")
    return keras.Model([query, value, key, mask], attend(key=key, query=x, value=value))


LAYERS = {
    "dense": lambda keras: images(keras, keras.layers.Dense(7)),
    "einsum": lambda keras: images(keras, keras.layers.EinsumDense("abcd,def->abcef", (12, 10, 5, 6))),
    "einsum with positions of its own": lambda keras: images(
        keras, keras.layers.EinsumDense("abcd,cde->abce", (12, 10, 6))
    ),
    "einsum ellipsis": lambda keras: images(keras, keras.layers.EinsumDense("...d,de->...e", (12, 10, 6))),
    "strided": lambda keras: images(keras, keras.layers.Conv2D(5, (3, 2), strides=2)),
    "dilated": lambda keras: images(keras, keras.layers.Conv2D(5, 3, dilation_rate=2)),
    "causal": lambda keras: images(keras, keras.layers.Conv1D(5, 3, padding="causal"), shape=(12, 4)),
    "volumes": lambda keras: images(keras, keras.layers.Conv3D(4, 3, padding="same"), shape=(6, 5, 4, 2)),
    "transposed": lambda keras: images(keras, keras.layers.Conv2DTranspose(5, 3, strides=2, padding="same")),
    "depthwise": lambda keras: images(keras, keras.layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)),
    "separable": lambda keras: images(keras, keras.layers.SeparableConv2D(5, 3, strides=2, depth_multiplier=2)),
    "separable sequence": lambda keras: images(keras, keras.layers.SeparableConv1D(5, 3), shape=(12, 4)),
    "normalized": lambda keras: images(keras, keras.layers.Dense(4), keras.layers.LayerNormalization()),
    "lstm": lambda keras: images(keras, keras.layers.LSTM(5, unroll=True), shape=(7, 3)),
    "gru": lambda keras: images(keras, keras.layers.GRU(5, unroll=True, return_sequences=True), shape=(7, 3)),
    "bidirectional": lambda keras: images(
        keras, keras.layers.Bidirectional(keras.layers.SimpleRNN(5, unroll=True)), shape=(7, 3)
    ),
    "at each step": lambda keras: images(
        keras, keras.layers.TimeDistributed(keras.layers.Conv2D(4, 3, strides=2)), shape=(5, 8, 6, 3)
    ),
    "shared": shared,
    "any size": any_size,
    "attention": attention,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_as_profiled(name, either_keras):
    model = LAYERS[name](either_keras)
    assert count_flops(model) == profiled(model) > 0


def test_layers_of_keras_3_as_profiled():
    query, value = keras.Input((6, 8)), keras.Input((9, 8))
    x = keras.layers.GroupQueryAttention(3, num_query_heads=4, num_key_value_heads=2)(query, value)
    x = keras.ops.matmul(x, keras.ops.transpose(value, (0, 2, 1)))
    model = keras.Model([query, value], x)
    assert count_flops(model) == profiled(model)


def test_tied_embeddings_count_where_they_multiply():
    embedding = keras.layers.ReversibleEmbedding(11, 4)
    tokens = keras.Input((6,), dtype="int32")
    model = keras.Model(tokens, embedding(embedding(tokens), reverse=True))
    assert count_flops(model) == 6 * 4 * 11


def test_channels_first_as_channels_last():
    for layer in (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.SeparableConv2D):
        last = images(keras, layer(5, 3, strides=2), shape=(12, 10, 3))
        first = images(keras, layer(5, 3, strides=2, data_format="channels_first"), shape=(3, 12, 10))
        assert count_flops(first) == count_flops(last)


def test_groups_by_hand(either_keras):
    model = images(either_keras, either_keras.layers.Conv2D(6, 3, groups=3, padding="same"))
    assert count_flops(model) == (12 * 10) * (3 * 3) * 1 * 6  # each filter sees one of the 3 channels


def test_stacked_cells_by_hand(either_keras):
    cells = [either_keras.layers.LSTMCell(4), either_keras.layers.GRUCell(3)]
    model = images(either_keras, either_keras.layers.RNN(cells), shape=(7, 2))
    assert count_flops(model) == 7 * ((2 + 4) * 4 * 4 + (4 + 3) * 3 * 3)  # 7 steps; 4 gates, then 3


@pytest.mark.parametrize("sequences", [False, True])
def test_convolutional_recurrence_by_hand(sequences, either_keras):
    layer = either_keras.layers.ConvLSTM2D(4, (3, 2), return_sequences=sequences)
    model = images(either_keras, layer, shape=(5, 8, 6, 3))
    # 4 gates of 4 filters at 6 x 5 positions in each of 5 steps, over 3 input and 4 recurrent channels.
    assert count_flops(model) == 5 * (6 * 5) * (3 * 2) * (3 + 4) * (4 * 4)


def test_dot_products_by_hand(either_keras):
    layers = either_keras.layers
    query, value = either_keras.Input((5, 8)), either_keras.Input((7, 8))
    outputs = [
        layers.Dot((2, 2))([query, value]),  # 5 x 7 entries
        layers.Attention()([query, value]),
        layers.AdditiveAttention(use_scale=False)([query, value]),
    ]
    counts = count_layers(either_keras.Model([query, value], outputs)).layers
    assert sorted(counts.values()) == [5 * 7 * 8, 2 * 5 * 7 * 8, 2 * 5 * 7 * 8]


def test_paths_are_those_of_weights(either_keras):
    layers = either_keras.layers
    inner = images(either_keras, layers.Conv2D(2, 3, name="conv"), layers.Flatten(), shape=(4, 4, 1))
    inner = either_keras.Model(inner.inputs[0], inner.outputs[0], name="inner")
    inputs = either_keras.Input((3, 4, 4, 1))
    x = layers.TimeDistributed(inner, name="each")(inputs)
    x = layers.LSTM(2, name="lstm")(x)
    model = either_keras.Model(inputs, layers.Dense(3, name="logits")(x))
    # 3 steps of 2 x 2 positions of a 3 x 3 kernel; 3 steps of 4 gates of 2 units over 8 inputs and 2 units; 2 x 3.
    expected = {"each/inner/conv": 3 * 4 * 9 * 2, "lstm/lstm_cell": 3 * (8 + 2) * 8, "logits": 6}
    assert count_layers(model).layers == expected


def random_masks(model, rng):
    return {w.path: rng.random(w.shape) < 0.3 for w in force_tf.models.prunable.all_prunable_weights(model)}


def masked_model(keras):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2DTranspose(5, 2, strides=2, name="transposed")(x)
    x = layers.Reshape((4, 20))(x)
    x = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x), name="masked")


def test_pruned_weights_take_none(either_keras):
    model = masked_model(either_keras)
    masks = random_masks(model, np.random.default_rng(0))
    kept = {path: int(mask.sum()) for path, mask in masks.items()}
    depthwise = next(path for path in masks if path.startswith("depthwise/"))
    expected = {
        "conv": 4 * 4 * kept["conv/kernel"],
        "depthwise": 2 * 2 * kept[depthwise],
        "transposed": 2 * 2 * kept["transposed/kernel"],
        "lstm/lstm_cell": 4 * (kept["lstm/lstm_cell/kernel"] + kept["lstm/lstm_cell/recurrent_kernel"]),
        "logits": 4 * kept["logits/kernel"],
    }
    assert count_layers(model, masks).layers == expected
    pruned = force_tf.apply_masks(model, masks)
    assert count_layers(pruned).layers == expected
    assert count_flops(pruned) == sum(expected.values())
    pruned.trainable = False
    assert count_flops(pruned) == sum(expected.values())
    dense = count_flops(model)
    assert count_flops(pruned, {}) == dense > sum(expected.values())
    only_conv = {"conv/kernel": masks["conv/kernel"]}
    assert count_flops(model, only_conv) == dense - 4 * 4 * (masks["conv/kernel"].size - kept["conv/kernel"])


def test_counting_leaves_the_model_as_it_is(either_keras):
    model = any_size(either_keras)
    before = [np.array(variable) for variable in model.variables]
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    count_flops(model)
    assert nodes == [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def own_layer(keras):
    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, inputs):
            return inputs * self.scale

    return Scaled(name="scaled")


def test_unknown_layers_with_weights_are_named(either_keras):
    model = images(either_keras, either_keras.layers.Dense(4), own_layer(either_keras), shape=(3,))
    with pytest.warns(UserWarning, match=r"do not include.*scaled \(Scaled\)") as caught:
        assert count_flops(model) == 12
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_layers(model).unknown == {"scaled": "Scaled"}


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantized_kernels_are_counted_like_others(mode):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(5, name="dense")]
    model = images(keras, *layers, shape=(6, 6, 2))
    expected = 4 * 4 * (3 * 3 * 2 * 4) + 4 * 4 * 4 * 5
    assert count_flops(model) == expected
    model.get_layer("dense").quantize(mode)
    assert count_flops(model) == expected


def test_packed_kernels_are_not_counted():
    if not hasattr(keras.quantizers, "pack_int4"):
        pytest.skip(f"Keras {keras.__version__} does not quantize to int4")
    layer = keras.layers.Dense(4, name="packed")
    model = images(keras, layer, shape=(8,))
    layer.quantize("int4")
    assert count_layers(model).unknown == {"packed": "Dense"}


def test_sizes_that_may_vary(either_keras):
    layers = either_keras.layers
    inputs = either_keras.Input((None, 20, 3), name="pictures")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    model = either_keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    with pytest.raises(ValueError, match=r"fixed sizes.*'pictures' of shape \(None, None, 20, 3\).*layer 'conv'"):
        count_flops(model)
    words = either_keras.Sequential([either_keras.Input((None,)), layers.Embedding(9, 4), layers.LSTM(2)])
    with pytest.raises(ValueError, match="fixed sizes"):
        count_flops(words)
    inputs = either_keras.Input((None, None, 3))
    pooled = either_keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D()(inputs)))
    assert count_flops(pooled) == 6, "no multiply-add depends on the size"


@pytest.mark.parametrize(
    ("make", "masks", "error", "message"),
    [
        (lambda: "model", None, TypeError, "Expected a model"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), None, ValueError, "built"),
        (lambda: LAYERS["dense"](keras), [1], TypeError, "Expected `masks`"),
        (lambda: LAYERS["dense"](keras), {"other/kernel": [1]}, ValueError, "no such weight"),
        (lambda: images(keras, keras.layers.Dense(7, name="d")), {"d/kernel": [1, 0]}, ValueError, r"shape \(3, 7\)"),
        (lambda: images(keras, keras.layers.Dense(7, name="d")), {"d/kernel": 5}, TypeError, "mask"),
    ],
)
def test_bad_input(make, masks, error, message):
    with pytest.raises(error, match=message):
        count_flops(make(), masks)


def test_models_without_a_graph():
    model = without_graph(keras)
    with pytest.raises(ValueError, match=r"Functional or Sequential.*'subclassed' of class Subclassed"):
        count_flops(model)
    sequence = keras.Sequential([without_graph(keras)], name="outer")
    sequence(np.zeros((1, 3)))
    assert count_layers(sequence).unknown == {"subclassed": "Subclassed"}
