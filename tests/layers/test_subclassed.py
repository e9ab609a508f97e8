"""Models that Keras cannot copy, of both Kerases: wrapped in place, trained, and unwrapped in place."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.layers import apply_masks, get_masks, is_pruned, strip_pruning, without_masks, wrapper_class
from force_tf.models.keras_models import tf_variable
from helpers.subclassed_models import (
    X,
    Y,
    assert_zeros,
    built,
    classes_of,
    masks_for,
    output_by_hand,
    tied,
    two_layers,
    variables_by_path,
    with_a_constructor_of_its_own,
    with_a_layer_without_config,
    with_variables_of_its_own,
)


def ids(items):
    return [id(item) for item in items]


def gradients_of(model):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(X) ** 2)
    variables = variables_by_path(model)
    gradients = tape.gradient(loss, [tf_variable(variable) for variable in variables.values()])
    return {path: gradient.numpy() for path, gradient in zip(variables, gradients)}


def test_layers_are_wrapped_wherever_they_are_and_come_back(either_keras):
    layers = either_keras.layers
    model = built(classes_of(either_keras).Everything)
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    before = list(model._flatten_layers())
    variables, trainable = list(model.variables), list(model.trainable_variables)
    kernel = model.inner.logits.kernel
    variable_class, constraint = type(kernel), kernel.constraint
    dense = [part for part in before if isinstance(part, layers.Dense)]

    pruned = apply_masks(model, masks)
    assert pruned is model
    assert isinstance(model, classes_of(either_keras).Everything)
    assert list(get_masks(model)) == list(masks), "paths or their order differ"
    assert get_masks(model) == masks
    for holder in (model, model.block):
        assert not set(ids(dense)) & set(ids(holder._flatten_layers(include_self=False, recursive=False)))
    for part in (model.stack[1][1], model.by_name["a"]["c"], model.pair[0], model.pair[1][0], model.sequence.layers[0]):
        assert isinstance(part, wrapper_class(model)), part
    assert isinstance(model.block, classes_of(either_keras).Block)
    assert isinstance(model.block.attention, wrapper_class(model))
    assert ids(model.trainable_variables) == ids(trainable)
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)

    assert strip_pruning(model) is model
    assert type(model) is classes_of(either_keras).Everything
    assert not is_pruned(model)
    assert ids(model._flatten_layers()) == ids(before)
    assert ids(model.variables) == ids(variables)
    assert (type(kernel), kernel.constraint) == (variable_class, constraint)
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    assert_zeros(model, masks)


def test_penalties_are_of_what_is_kept_and_come_back(either_keras):
    model = built(classes_of(either_keras).Everything)
    masks = masks_for(model)
    apply_masks(model, masks)
    logits = next(layer for layer in model.inner._flatten_layers() if isinstance(layer, either_keras.layers.Dense))
    logits.kernel.assign(tf.ones((4, 4)))
    kept = next(mask.sum() for path, mask in masks.items() if variables_by_path(model)[path] is logits.kernel)
    (penalty,) = model.losses
    assert float(penalty) == pytest.approx(0.01 * kept)  # Keras's l2 is 0.01 times the sum of the squares
    strip_pruning(model)
    logits.kernel.assign(tf.ones((4, 4)))
    (penalty,) = model.losses
    assert float(penalty) == pytest.approx(0.01 * 16)


# Keras 3.10 warns so of every model that it loads.
@pytest.mark.filterwarnings("ignore:(?s).*The structure of `inputs` doesn't match")
def test_models_inside_keep_working_alone(either_keras, tmp_path):
    model = built(classes_of(either_keras).Everything)
    apply_masks(model, masks_for(model))
    expected = model.graph.predict(X, verbose=0)
    model.graph.save(tmp_path / "graph.keras")
    loaded = either_keras.saving.load_model(tmp_path / "graph.keras")
    np.testing.assert_allclose(loaded(X), expected, rtol=1e-5)
    assert isinstance(loaded.layers[1], wrapper_class(model))
    strip_pruning(model)
    np.testing.assert_allclose(model.graph.predict(X, verbose=0), expected, rtol=1e-5)


def test_a_sequential_model_without_an_input_inside(either_keras):
    class Deferred(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.network = either_keras.Sequential([either_keras.layers.Dense(4, name="dense")], name="network")

        def call(self, inputs):
            return self.network(inputs)

    model = built(Deferred)
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    apply_masks(model, masks).compile("sgd", "mse")
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    model.fit(X, Y, verbose=0)
    assert_zeros(model, masks)
    assert not gradients_of(model)["network/dense/kernel"][~masks["network/dense/kernel"]].any()


def test_training_in_place_equals_training_a_copy(either_keras):
    layers = either_keras.layers
    stack = [layers.Dense(8, activation="relu", name="hidden"), layers.Dense(4, name="logits")]
    graph = either_keras.Sequential([either_keras.Input((4,)), *stack])
    model = built(two_layers(either_keras))
    model.set_weights(graph.get_weights())
    masks = masks_for(graph)
    copy = apply_masks(graph, masks)
    apply_masks(model, masks)
    for either in (copy, model):
        either.compile(either_keras.optimizers.AdamW(0.05, clipnorm=1.0), "mse")
        either.fit(X, Y, epochs=4, batch_size=8, shuffle=False, verbose=0)
    for actual, expected in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6, err_msg=expected.name)


@pytest.mark.parametrize("which", ["adam", "another"])
def test_a_trained_model_trains_on(either_keras, which):
    another = either_keras.optimizers.Muon if either_keras is keras else either_keras.optimizers.legacy.Adam
    model = built(two_layers(either_keras))
    model.compile("adam" if which == "adam" else another(), "mse")
    optimizer = model.optimizer
    model.fit(X, Y, epochs=2, verbose=0)  # traced, and with momenta for all weights
    masks = masks_for(model)
    apply_masks(model, masks)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(X, Y, epochs=2, verbose=0)
    assert_zeros(model, masks)
    for variable, value in zip(model.trainable_variables, before):
        assert (variable.numpy() != value).any(), f"{variable.name} was not trained"
    strip_pruning(model)
    model.fit(X, Y, epochs=1, verbose=0)
    assert model.hidden.kernel.numpy()[~masks["hidden/kernel"]].any(), "stripped weights do not train"
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 5


def test_own_train_step_and_own_loop(either_keras):
    class OwnStep(two_layers(either_keras)):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
            return {"loss": loss}

    model = built(OwnStep)
    masks = masks_for(model)
    apply_masks(model, masks)
    model.compile(either_keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    assert_zeros(model, masks)
    optimizer = either_keras.optimizers.Adam(0.1)
    variables = model.trainable_variables

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X, training=True) - Y))
        gradients = tape.gradient(loss, [tf_variable(variable) for variable in variables])
        optimizer.apply_gradients(zip(gradients, variables))
        return gradients

    for _ in range(2):
        gradients = {id(variable): gradient for variable, gradient in zip(variables, step())}
    for path, variable in variables_by_path(model).items():
        gradient = gradients[id(variable)].numpy()
        assert not gradient[~masks[path]].any(), f"{path} has gradients at pruned weights"
        assert gradient[masks[path]].any(), f"{path} has no gradients at all"
    assert_zeros(model, masks)


def test_methods_that_are_traced_already_are_traced_anew(either_keras):
    class Traced(two_layers(either_keras)):
        @tf.function
        def call(self, inputs):
            return super().call(inputs)

    model = built(Traced)
    masks = masks_for(model)
    apply_masks(model, masks)
    gradient = gradients_of(model)["logits/kernel"]
    assert not gradient[~masks["logits/kernel"]].any()
    assert gradient.any()


def test_shared_layers_have_one_mask_wherever_their_weights_are_used(either_keras):
    model = built(tied(either_keras))
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    apply_masks(model, masks)
    assert model.encoder is model.also_encoder is model.again[0] is model.again_too[0]
    assert model.encoder.units == 3, "a wrapper does not show the attributes of its layer"
    assert [layer.name for layer in model.layers] == ["encoder"]
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    assert not gradients_of(model)["encoder/kernel"][~masks["encoder/kernel"]].any()
    strip_pruning(model)
    assert model.encoder is model.also_encoder is model.again[0] is model.again_too[0]
    assert [layer.name for layer in model.layers] == ["encoder"]


def test_attributes_named_as_those_of_tensorflow_are_wrapped(either_keras):
    class Attending(either_keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self._self_attention_layer = either_keras.layers.MultiHeadAttention(1, 2)
            self._self_dense = [either_keras.layers.Dense(4)]

        def call(self, inputs):
            x = tf.expand_dims(self._self_dense[0](inputs), 1)
            return tf.squeeze(self._self_attention_layer(x, x), 1)

    class AttendingModel(either_keras.Model):
        def __init__(self):
            super().__init__()
            self._self_block = Attending()

        def call(self, inputs):
            return self._self_block(inputs)

    model = built(AttendingModel)
    masks, before = masks_for(model), ids(model._flatten_layers())
    expected = output_by_hand(model, masks)
    apply_masks(model, masks)
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    for path, gradient in gradients_of(model).items():
        assert not gradient[~masks[path]].any(), path
    for variable in variables_by_path(model).values():
        variable.assign(tf.ones_like(variable))
    np.testing.assert_allclose(model(X), output_by_hand(model, masks), rtol=1e-5, atol=1e-6)
    strip_pruning(model)
    assert ids(model._flatten_layers()) == before


def test_a_plain_model_lent_out_has_zeros_whoever_assigned_its_weights(either_keras):
    model = built(two_layers(either_keras))
    masks = masks_for(model)
    for variable in variables_by_path(model).values():
        variable.assign(tf.ones_like(variable))
    expected = output_by_hand(model, masks)
    apply_masks(model, masks)
    for variable in variables_by_path(model).values():
        variable.assign(tf.ones_like(variable))
    with without_masks(model) as plain:
        assert not is_pruned(plain)
        # A traced function reads the weights as they are.
        np.testing.assert_allclose(tf.function(lambda x: plain(x))(X), expected, rtol=1e-5, atol=1e-6)


def test_models_that_call_a_layer_past_its_wrapper_are_refused(either_keras):
    class PastTheWrapper(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.cell = either_keras.layers.LSTMCell(3, name="cell")
            self.network = either_keras.layers.RNN(self.cell, name="network")

        def call(self, inputs):
            output = self.network(tf.expand_dims(inputs, 1))
            return self.cell(inputs, [output, output])[0]

    model = built(PastTheWrapper)
    masks, before, variable_class = masks_for(model), ids(model._flatten_layers()), type(model.cell.kernel)
    with pytest.raises(ValueError, match=r"^Expected a layer inside one of Keras's own .* Received: 'network/cell'"):
        apply_masks(model, masks)
    assert ids(model._flatten_layers()) == before
    assert type(model) is PastTheWrapper
    assert type(model.cell.kernel) is variable_class


def test_what_is_interrupted_leaves_the_model_as_it_was(either_keras, monkeypatch):
    model = built(two_layers(either_keras))
    masks, before, constraint = masks_for(model), ids(model._flatten_layers()), model.hidden.kernel.constraint

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(wrapper_class(model), "keep_at_every_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply_masks(model, masks)
    assert type(model) is two_layers(either_keras)
    assert ids(model._flatten_layers()) == before
    assert model.hidden.kernel.constraint is constraint


@pytest.mark.parametrize(
    "make", [with_a_constructor_of_its_own, with_a_layer_without_config, with_variables_of_its_own]
)
def test_graphs_that_cannot_be_copied_are_wrapped_in_place_with_a_warning(either_keras, make):
    model = make(either_keras)
    masks = masks_for(model)
    expected, before = output_by_hand(model, masks), list(model.layers)
    model.compile("adam", "mse")
    with pytest.warns(UserWarning, match="is wrapped in place, as it cannot be copied. Expected"):
        assert apply_masks(model, masks) is model
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    model.fit(X, Y, verbose=0)
    assert_zeros(model, masks)
    strip_pruning(model)
    assert ids(model.layers) == ids(before)
    assert_zeros(model, masks)


def test_a_subclassed_model_inside_a_graph_is_copied_with_it(either_keras):
    inputs = either_keras.Input((4,))
    inner = classes_of(either_keras).Inner(name="inner")
    model = either_keras.Model(inputs, either_keras.layers.Dense(4, name="logits")(inner(inputs)))
    masks = masks_for(model)
    expected = output_by_hand(model, masks)
    pruned = apply_masks(model, masks)
    assert pruned is not model
    np.testing.assert_allclose(pruned(X), expected, rtol=1e-5, atol=1e-6)
    assert get_masks(pruned) == masks
    assert not is_pruned(model)


def test_export_and_search_leave_a_wrapped_model_as_it_is(either_keras, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    model = built(two_layers(either_keras))
    pruned = force_tf.PruneAtInit("magnitude", sparsity=0.5).prune(model, verbose=0)
    masks, expected = get_masks(pruned), pruned(X).numpy()
    report = force_tf.export_tflite(pruned, tmp_path / "model.tflite", verify_data=X, verbose=False)
    assert report.max_difference < 1e-5
    assert get_masks(pruned) == masks
    np.testing.assert_array_equal(pruned(X), expected)
    with pytest.raises(ValueError, match="strip_pruning"):
        force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(pruned)
    with pytest.raises(ValueError, match="strip_pruning"):
        apply_masks(pruned, masks)
