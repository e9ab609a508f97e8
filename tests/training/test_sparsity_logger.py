"""`SparsityLogger` tells `fit`'s logs and TensorBoard what is true of the model, and changes nothing."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import force_tf
from force_tf.models.prunable import all_prunable_weights
from force_tf.training.sparsity_logger import SparsityLogger

# 2x2x1 weights for each of 3 filters, the second without any, and 12x2 weights of which the first row is left.
CONV = np.zeros((2, 2, 1, 3), bool)
CONV[0, 0, 0, 0] = CONV[:, :, 0, 2] = True
DENSE = np.zeros((12, 2), bool)
DENSE[0] = True
MASKS = {"conv/kernel": CONV, "logits/kernel": DENSE}
MEASURED = {
    "sparsity": 1 - 7 / 36,
    "nonzero_masked_weights": 0,
    "dead_channels": 1,
    "masks_dropped": 0,
    "masks_grown": 0,
    "density/conv/kernel": 5 / 12,
    "density/logits/kernel": 2 / 24,
    "dead_channels/conv/kernel": 1,
    "dead_channels/logits/kernel": 0,
    "dropped/conv/kernel": 0,
    "dropped/logits/kernel": 0,
    "grown/conv/kernel": 0,
    "grown/logits/kernel": 0,
}
CHECKED = MEASURED | {"nonzero_masked_gradients": 0}

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 3, 3, 1)).astype("float32"), RNG.integers(0, 2, 24)


def pruned_model(keras=keras):
    layers = keras.layers
    stack = [
        layers.Conv2D(3, 2, kernel_regularizer="l2", name="conv"),
        layers.BatchNormalization(),
        layers.Dropout(0.5, seed=1),
        layers.Flatten(),
        layers.Dense(2, activation="softmax", name="logits"),
    ]
    model = keras.Sequential([keras.Input((3, 3, 1)), *stack], name="net")
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    return force_tf.apply_masks(model, MASKS)


def fit(model, *callbacks, epochs=2, **kwargs):
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **kwargs).history


def scalars(log_dir):
    """Tag to [(step, value), ...], as TensorBoard reads them."""
    events = EventAccumulator(str(log_dir)).Reload()
    return {
        tag: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def variable(model, path):
    return next(weight.variable for weight in all_prunable_weights(model) if weight.path == path)


def optimizer_variables(model):
    variables = model.optimizer.variables
    return variables() if callable(variables) else variables


def at(begin, action, keras=keras):
    """Returns a callback that does something as an epoch begins."""

    def on_epoch_begin(epoch, logs):
        if epoch == begin:
            action()

    return keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin)


def interrupt():
    raise KeyboardInterrupt


def test_history_has_what_was_measured(either_keras):
    history = fit(pruned_model(either_keras), SparsityLogger(data=(X, Y)))
    assert {key: history[key] for key in history if key != "loss"} == {
        key: [pytest.approx(value)] * 2 for key, value in CHECKED.items()
    }


def test_without_data_there_is_no_gradient_check_and_without_layers_no_paths():
    history = fit(pruned_model(), SparsityLogger(per_layer=False), epochs=1)
    assert set(history) == {
        "loss",
        "sparsity",
        "nonzero_masked_weights",
        "dead_channels",
        "masks_dropped",
        "masks_grown",
    }


def test_later_callbacks_see_the_logs(either_keras, tmp_path):
    csv = either_keras.callbacks.CSVLogger(tmp_path / "log.csv")
    fit(pruned_model(either_keras), SparsityLogger(), csv)
    columns = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert set(MEASURED) <= set(columns)


def test_tensorboard_has_what_was_measured(either_keras, tmp_path):
    fit(pruned_model(either_keras), SparsityLogger(tmp_path, data=(X, Y), per_layer=False))
    assert scalars(tmp_path) == {
        key: [(0, pytest.approx(value)), (1, pytest.approx(value))] for key, value in CHECKED.items()
    }


def test_interrupted_fit_leaves_whole_files_and_goes_on(either_keras, tmp_path):
    model, logger = pruned_model(either_keras), SparsityLogger(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, logger, at(1, interrupt, either_keras))
    assert scalars(tmp_path)["sparsity"] == [(0, pytest.approx(MEASURED["sparsity"]))]
    fit(model, logger, initial_epoch=1)
    assert [step for step, _ in scalars(tmp_path)["sparsity"]] == [0, 1]


def test_training_is_the_same_with_and_without(either_keras):
    results = []
    for callbacks in ([], [SparsityLogger(data=(X, Y))]):
        either_keras.utils.set_random_seed(0)
        model = pruned_model(either_keras)
        history = fit(model, *callbacks)
        results.append((history["loss"], [v.numpy() for v in (*model.variables, *optimizer_variables(model))]))
    (plain_loss, plain), (loss, variables) = results
    assert loss == plain_loss
    for expected, actual in zip(plain, variables, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_masks_that_change_are_followed(tmp_path):
    model = pruned_model()
    others = np.ones_like(DENSE)
    others[0, 0] = False
    change = at(1, lambda: model.get_layer("logits").set_masks({"kernel": others}))
    history = fit(model, SparsityLogger(tmp_path), change)
    assert history["density/logits/kernel"] == [pytest.approx(2 / 24), pytest.approx(23 / 24)]
    moved = {"masks_dropped": 1, "masks_grown": 22, "dropped/logits/kernel": 1, "grown/logits/kernel": 22}
    moved["grown/conv/kernel"] = 0
    assert {key: history[key] for key in moved} == {key: [0, count] for key, count in moved.items()}
    seen = scalars(tmp_path)
    assert {key: seen[key] for key in moved} == {key: [(0, 0), (1, count)] for key, count in moved.items()}


def test_a_weight_that_is_not_zero_is_counted_and_named():
    model = pruned_model()
    kernel = variable(model, "logits/kernel")
    revive = at(1, lambda: kernel.value.assign(np.ones(kernel.shape)))  # past whatever guards the Keras variable
    with pytest.warns(UserWarning, match="Received: nonzero_masked_weights: 22 in 'logits/kernel'"):
        history = fit(model, SparsityLogger(), revive)
    assert history["nonzero_masked_weights"] == [0, 22]


def test_a_gradient_that_is_not_zero_is_counted_and_named(either_keras):
    model = pruned_model(either_keras)
    kernel = variable(model, "logits/kernel")

    def leaking_loss(y_true, y_pred):
        return tf.reduce_mean(y_pred) + tf.reduce_sum(kernel)  # the weight itself, past its mask

    with pytest.warns(UserWarning, match="Received: nonzero_masked_gradients: 22 in 'logits/kernel'"):
        history = fit(model, SparsityLogger(data=(X, Y), loss=leaking_loss), epochs=1)
    assert (history["nonzero_masked_gradients"], history["nonzero_masked_weights"]) == ([22], [0])


def test_gradients_are_seen_in_the_scope_of_a_strategy(either_keras):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = pruned_model(either_keras)
        kernel = variable(model, "conv/kernel")
        logger = SparsityLogger(data=(X, Y), loss=lambda y_true, y_pred: tf.reduce_sum(y_pred) + tf.reduce_sum(kernel))
        with pytest.warns(UserWarning, match="nonzero_masked_gradients: 7 in 'conv/kernel'"):
            fit(model, logger, epochs=1)


def test_a_subclassed_model():
    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.branches = [keras.layers.Dense(2, name="left"), keras.layers.Dense(2, name="right")]

        def call(self, inputs):
            return sum(branch(inputs) for branch in self.branches)

    model = Classifier()
    model(X[:, 0, :, 0])
    model.compile("adam", "mse", jit_compile=False)
    mask = np.array([[True, False], [False, False], [True, False]])
    pruned = force_tf.apply_masks(model, {"left/kernel": mask, "right/kernel": ~mask})
    x, y = X[:, 0, :, 0], RNG.normal(size=(24, 2))
    history = pruned.fit(x, y, verbose=0, callbacks=[SparsityLogger(data=(x, y))]).history
    assert history["density/left/kernel"] == [pytest.approx(1 / 3)]
    assert (history["dead_channels/left/kernel"], history["dead_channels/right/kernel"]) == ([1], [0])
    assert history["nonzero_masked_gradients"] == [0]


@pytest.mark.parametrize("data", [X, (X, None), tf.data.Dataset.from_tensor_slices(X).batch(8)], ids=str)
def test_a_model_that_trains_on_what_its_layers_add(either_keras, data):
    class Energy(either_keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_mean(tf.square(inputs)))
            return inputs

    layers = either_keras.layers
    stack = [layers.Conv2D(3, 2, name="conv"), layers.Flatten(), layers.Dense(2, name="logits"), Energy()]
    model = either_keras.Sequential([either_keras.Input((3, 3, 1)), *stack])
    model.compile("sgd", jit_compile=False)
    pruned = force_tf.apply_masks(model, MASKS)
    history = pruned.fit(X, verbose=0, callbacks=[SparsityLogger(data=data)]).history
    assert history["nonzero_masked_gradients"] == [0]


def test_targets_that_the_loss_needs():
    with pytest.raises(ValueError, match="the loss needs targets"):
        fit(pruned_model(), SparsityLogger(data=X))


def test_frozen_layers_are_still_looked_at():
    model = pruned_model()
    model.get_layer("conv").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    history = fit(model, SparsityLogger(data=(X, Y)), epochs=1)
    assert {key: history[key] for key in CHECKED} == {key: [pytest.approx(value)] for key, value in CHECKED.items()}


def test_divergence_is_not_its_business():
    model = pruned_model()
    history = fit(model, SparsityLogger(data=(X * np.nan, Y)), epochs=1)
    assert history["nonzero_masked_gradients"] == [0], "a mask holds for NaN as well"


def test_gradients_of_embeddings_and_recurrent_layers(either_keras):
    keras, layers = either_keras, either_keras.layers
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(7, 4, name="words"), layers.GRU(3, name="gru")]
    )
    model.compile("adam", "mse", jit_compile=False)
    weights = all_prunable_weights(model)
    masks = {weight.path: np.arange(weight.size).reshape(weight.shape) % 4 != 0 for weight in weights}
    pruned = force_tf.apply_masks(model, masks)
    x, y = RNG.integers(0, 7, (8, 5)), RNG.normal(size=(8, 3))
    history = pruned.fit(x, y, verbose=0, callbacks=[SparsityLogger(data=(x, y))]).history
    assert history["nonzero_masked_gradients"] == [0]
    # Every fourth entry is pruned: of 4 features the first, whole; of 9 columns and 3 or 4 rows none.
    assert {key: value for key, value in history.items() if key.startswith("dead")} == {
        "dead_channels": [1],
        "dead_channels/words/embeddings": [1],
        "dead_channels/gru/gru_cell/kernel": [0],
        "dead_channels/gru/gru_cell/recurrent_kernel": [0],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": (X[:, :2], Y)}, r"inputs of shape \(None, 3, 3, 1\).*Received: inputs of shape \(24, 2, 3, 1\)"),
        ({"data": (X, Y + 1)}, "class indices from 0 to 1.*Received: 1 to 2"),
        ({"data": (X, Y), "loss": "no_such_loss"}, "Received: loss='no_such_loss'"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(arguments, message):
    model = pruned_model()
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(ValueError, match=message):
        fit(model, SparsityLogger(**arguments))
    for now, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(now.numpy(), value)


def test_a_model_without_masks_is_refused(either_keras):
    plain = force_tf.strip_pruning(pruned_model(either_keras))
    with pytest.raises(ValueError, match=r"wrapped by apply_masks\. Received: 'net'"):
        fit(plain, SparsityLogger())


def test_log_dir_must_be_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"Received: log_dir=.*file"):
        SparsityLogger(tmp_path / "file")


def test_without_tensorboard_the_logs_remain(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        SparsityLogger(tmp_path)
    assert "sparsity" in fit(pruned_model(), SparsityLogger(), epochs=1)
