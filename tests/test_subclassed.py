"""Models that Keras cannot copy: wrapped in place, trained, saved, and unwrapped in place."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.layers import MaskedLayer, apply_masks, get_masks, is_pruned, strip_pruning
from force_tf.masks import Masks
from force_tf.prunable import all_prunable_weights, prunable_weights

layers = keras.layers
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 4)).astype("float32")


class Block(layers.Layer):
    """A layer of layers, one of them Keras's own with layers inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.attention = layers.Dense(4), layers.MultiHeadAttention(1, 2)

    def call(self, inputs):
        x = keras.ops.expand_dims(self.dense(inputs), 1)
        return inputs + keras.ops.squeeze(self.attention(x, x), 1)


class Inner(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.logits = layers.Dense(4, kernel_regularizer="l2", kernel_constraint="max_norm")

    def call(self, inputs):
        return self.logits(inputs)


class Everything(keras.Model):
    """Layers in every place that Keras tracks, none of them with a name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4, activation="tanh")
        self.stack = [layers.Dense(4), [layers.Dense(4), layers.Dense(4)]]
        self.by_name = {"b": layers.Dense(4), "a": {"c": layers.Dense(4)}}
        self.pair = (layers.Dense(4), [layers.Dense(4)])
        self.block = Block()
        self.inner = Inner()
        inputs, twice = keras.Input((4,)), layers.Dense(4, activation="tanh")
        self.graph = keras.Model(inputs, twice(twice(inputs)))
        self.sequence = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5)])

    def call(self, inputs):
        x = self.first(inputs)
        for layer in (self.stack[0], *self.stack[1], self.by_name["b"], self.by_name["a"]["c"], self.pair[0]):
            x = x + layer(x)
        return self.sequence(self.graph(self.inner(self.block(self.pair[1][0](x)))))


class TwoLayers(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(8, activation="relu", name="hidden")
        self.logits = layers.Dense(4, name="logits")

    def call(self, inputs):
        return self.logits(self.hidden(inputs))


def built(model_class, **arguments):
    model = model_class(**arguments)
    model(X)
    return model


def masks_for(model, seed=0):
    rng = np.random.default_rng(seed)
    weights, left_out = prunable_weights(model)
    return Masks({weight.path: rng.random(weight.shape) < 0.5 for weight in weights}, left_out=left_out)


def variables_by_path(model):
    return {weight.path: weight.variable for weight in all_prunable_weights(model)}


def output_by_hand(model, masks):
    """Returns what a model computes with θ⊙m put into its weights by hand, and puts the weights back."""
    kernels = variables_by_path(model)
    before = {path: kernels[path].numpy() for path in masks}
    for path, value in before.items():
        kernels[path].assign(value * masks[path])
    output = model(X).numpy()
    for path, value in before.items():
        kernels[path].assign(value)
    return output


def assert_zeros(model, masks):
    for path, variable in variables_by_path(model).items():
        pruned = variable.numpy()[~masks[path]]
        assert not pruned.any(), f"{path} has pruned weights of {np.abs(pruned).max()}"


def test_layers_are_wrapped_wherever_they_are_and_come_back():
    model = built(Everything)
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    before = model._flatten_layers()
    variables, trainable = list(model.variables), list(model.trainable_variables)
    kernel = model.inner.logits.kernel
    constraint, regularizer = kernel.constraint, kernel.regularizer
    dense = [part for part in before if isinstance(part, layers.Dense)]

    pruned = apply_masks(model, masks)
    assert pruned is model
    assert isinstance(model, Everything)
    assert list(get_masks(model)) == list(masks), "paths or their order differ"
    assert get_masks(model) == masks
    assert not {id(part) for part in dense} & {id(part) for part in model.block._layers + model._layers}
    for part in (model.stack[1][1], model.by_name["a"]["c"], model.pair[0], model.pair[1][0], model.sequence.layers[0]):
        assert isinstance(part, MaskedLayer), part
    assert isinstance(model.block, Block)
    assert isinstance(model.block.attention, MaskedLayer)
    assert [id(variable) for variable in model.trainable_variables] == [id(variable) for variable in trainable]
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)

    assert strip_pruning(model) is model
    assert type(model) is Everything
    assert not is_pruned(model)
    assert [id(part) for part in model._flatten_layers()] == [id(part) for part in before]
    assert [id(variable) for variable in model.variables] == [id(variable) for variable in variables]
    assert type(kernel) is keras.Variable
    assert (kernel.constraint, kernel.regularizer) == (constraint, regularizer)
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    assert_zeros(model, masks)


def test_models_inside_keep_working_alone(tmp_path):
    model = built(Everything)
    apply_masks(model, masks_for(model))
    expected = model.graph.predict(X, verbose=0)
    model.graph.save(tmp_path / "graph.keras")
    loaded = keras.saving.load_model(tmp_path / "graph.keras")
    np.testing.assert_allclose(loaded(X), expected, rtol=1e-5)
    assert isinstance(loaded.layers[1], MaskedLayer)
    strip_pruning(model)
    np.testing.assert_allclose(model.graph.predict(X, verbose=0), expected, rtol=1e-5)


def test_training_in_place_equals_training_a_copy():
    stack = [layers.Dense(8, activation="relu", name="hidden"), layers.Dense(4, name="logits")]
    graph = keras.Sequential([keras.Input((4,)), *stack])
    model = built(TwoLayers)
    model.set_weights(graph.get_weights())
    masks = masks_for(graph)
    copy = apply_masks(graph, masks)
    apply_masks(model, masks)
    for either in (copy, model):
        either.compile(keras.optimizers.AdamW(0.05, clipnorm=1.0), "mse")
        either.fit(X, Y, epochs=4, batch_size=8, shuffle=False, verbose=0)
    for actual, expected in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6, err_msg=expected.path)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_trained_model_trains_on(optimizer):
    model = built(TwoLayers)
    model.compile(optimizer, "mse")
    model.fit(X, Y, epochs=2, verbose=0)  # traced, and with momenta for all weights
    masks = masks_for(model)
    apply_masks(model, masks)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(X, Y, epochs=2, verbose=0)
    assert_zeros(model, masks)
    for variable, value in zip(model.trainable_variables, before):
        assert (variable.numpy() != value).any(), f"{variable.path} was not trained"
    strip_pruning(model)
    model.fit(X, Y, epochs=1, verbose=0)
    assert model.hidden.kernel.numpy()[~masks["hidden/kernel"]].any(), "stripped weights do not train"


class OwnStep(TwoLayers):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def test_own_train_step_and_own_loop():
    model = built(OwnStep)
    masks = masks_for(model)
    apply_masks(model, masks)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    assert_zeros(model, masks)
    optimizer = keras.optimizers.Adam(0.1)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X, training=True) - Y))
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return gradients

    for _ in range(2):
        gradients = dict(zip([variable.path for variable in model.trainable_variables], step()))
    for path, variable in variables_by_path(model).items():
        gradient = gradients[variable.path].numpy()
        assert not gradient[~masks[path]].any(), f"{path} has gradients at pruned weights"
        assert gradient[masks[path]].any(), f"{path} has no gradients at all"
    assert_zeros(model, masks)


class Traced(TwoLayers):
    @tf.function
    def call(self, inputs):
        return super().call(inputs)


def test_methods_that_are_traced_already_are_traced_anew():
    model = built(Traced)
    masks = masks_for(model)
    apply_masks(model, masks)
    kernel = variables_by_path(model)["logits/kernel"]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(X) ** 2)
    gradient = tape.gradient(loss, kernel.value).numpy()
    assert not gradient[~masks["logits/kernel"]].any()
    assert gradient.any()


class Tied(keras.Model):
    """Uses a layer's weight itself, and one layer under two names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = layers.Dense(3, use_bias=False, name="encoder")
        self.also_encoder = self.encoder
        self.again = [self.encoder]

    def call(self, inputs):
        codes = self.encoder(inputs) + self.also_encoder(inputs) + self.again[0](inputs)
        return keras.ops.matmul(codes, keras.ops.transpose(self.encoder.kernel))


def test_shared_layers_have_one_mask_wherever_their_weights_are_used():
    model = built(Tied)
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    apply_masks(model, masks)
    assert model.encoder is model.also_encoder is model.again[0]
    assert model.encoder.units == 3, "a wrapper does not show the attributes of its layer"
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(X) ** 2)
    (gradient,) = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    assert not gradient.numpy()[~masks["encoder/kernel"]].any()


def test_models_that_call_a_layer_past_its_wrapper_are_refused():
    class PastTheWrapper(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell = layers.LSTMCell(3, name="cell")
            self.network = layers.RNN(self.cell, name="network")

        def call(self, inputs):
            output = self.network(keras.ops.expand_dims(inputs, 1))
            return self.cell(inputs, [output, output])[0]

    model = built(PastTheWrapper)
    masks, before = masks_for(model), model._flatten_layers()
    with pytest.raises(ValueError, match=r"^Expected a layer inside one of Keras's own .* Received: 'network/cell'"):
        apply_masks(model, masks)
    assert model._flatten_layers() == before
    assert type(model) is PastTheWrapper
    assert type(model.cell.kernel) is keras.Variable


CUSTOM = {cls.__name__: cls for cls in (Block, Inner, Everything)}


def test_keras_files_hold_the_masks_also_in_the_middle_of_training(tmp_path):
    model = built(Everything)
    masks = masks_for(model)
    apply_masks(model, masks).compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=1)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[checkpoint])
    assert get_masks(model) == masks, "saving has changed the model"
    loaded = keras.saving.load_model(tmp_path / "2.keras", CUSTOM)  # its layers had other names when it was made
    assert get_masks(loaded) == masks
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
    loaded.fit(X, Y, verbose=0)
    assert_zeros(loaded, masks)
    plain = strip_pruning(loaded)
    plain.save(tmp_path / "plain.keras")
    assert type(keras.saving.load_model(tmp_path / "plain.keras", CUSTOM)) is Everything


def test_weight_files_and_checkpoints(tmp_path):
    model = built(Everything)
    model.save_weights(tmp_path / "dense.weights.h5")
    tf.train.Checkpoint(model).write(str(tmp_path / "dense"))
    kernel = model.first.kernel.numpy()
    masks = masks_for(model)
    apply_masks(model, masks).save_weights(tmp_path / "masked.weights.h5")

    other = built(Everything)
    apply_masks(other, masks_for(other, seed=1))
    other.load_weights(tmp_path / "masked.weights.h5")
    np.testing.assert_allclose(other(X), model(X), rtol=1e-5, atol=1e-6)

    strip_pruning(model).load_weights(tmp_path / "dense.weights.h5")
    np.testing.assert_array_equal(model.first.kernel, kernel)
    model.first.kernel.assign(tf.zeros_like(kernel))
    tf.train.Checkpoint(model).read(str(tmp_path / "dense")).assert_existing_objects_matched()
    np.testing.assert_array_equal(model.first.kernel, kernel)


def test_files_of_models_that_do_not_build_their_layers_are_refused(tmp_path):
    class LateLayers(TwoLayers):
        def build(self, input_shape):
            pass

    model = built(LateLayers)
    apply_masks(model, masks_for(model)).save(tmp_path / "late.keras")
    with pytest.raises(ValueError, match=r"^Expected a model that makes and builds .* of class LateLayers"):
        keras.saving.load_model(tmp_path / "late.keras", {"LateLayers": LateLayers})


class Scaled(keras.Model):
    """A functional model of a class with a constructor of its own."""

    def __init__(self, units, strength):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(units, name="logits")(inputs), name="scaled")
        self.strength = strength

    def train_step(self, data):
        x, y = data
        return super().train_step((x, self.strength * y))


class NoConfig(layers.Layer):
    def __init__(self, units, activation):
        super().__init__(name="no_config")
        self.dense, self.activation = layers.Dense(units, name="dense"), activation

    def call(self, inputs):
        return self.activation(self.dense(inputs))


def with_a_layer_without_config():
    return keras.Sequential([keras.Input((4,)), layers.Dense(4, name="first"), NoConfig(4, tf.nn.relu)])


def with_variables_of_its_own():
    class Own(keras.Model):
        pass

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(4, name="logits")(inputs))
    model.scale = keras.Variable(2.0, trainable=False)
    return model


@pytest.mark.parametrize(
    "make", [lambda: Scaled(4, strength=2.0), with_a_layer_without_config, with_variables_of_its_own]
)
def test_graphs_that_cannot_be_copied_are_wrapped_in_place_with_a_warning(make):
    model = make()
    masks = masks_for(model)
    expected, before = output_by_hand(model, masks), list(model.layers)
    model.compile("adam", "mse")
    with pytest.warns(UserWarning, match="is wrapped in place, as it cannot be copied. Expected"):
        assert apply_masks(model, masks) is model
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    model.fit(X, Y, verbose=0)
    assert_zeros(model, masks)
    strip_pruning(model)
    assert [id(layer) for layer in model.layers] == [id(layer) for layer in before]
    assert_zeros(model, masks)


def test_a_subclassed_model_inside_a_graph_is_copied_with_it():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(4, name="logits")(Inner(name="inner")(inputs)))
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    pruned = apply_masks(model, masks)
    assert pruned is not model
    np.testing.assert_allclose(pruned(X), expected, rtol=1e-5, atol=1e-6)
    assert get_masks(pruned) == masks
    assert not is_pruned(model)


def test_export_and_search_leave_a_wrapped_model_as_it_is(tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    model = built(TwoLayers)
    pruned = force_tf.PruneAtInit("magnitude", sparsity=0.5).prune(model, verbose=0)
    masks, expected = get_masks(pruned), pruned(X).numpy()
    report = force_tf.export_tflite(pruned, tmp_path / "model.tflite", samples=X, verbose=False)
    assert report.max_difference < 1e-5
    assert get_masks(pruned) == masks
    np.testing.assert_array_equal(pruned(X), expected)
    with pytest.raises(ValueError, match="strip_pruning"):
        force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(pruned)
    with pytest.raises(ValueError, match="strip_pruning"):
        apply_masks(pruned, masks)
