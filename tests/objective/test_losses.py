"""Every form of loss gives the masks that an independent search finds with the same loss written by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from helpers.reference import blobs, cross_entropy, grasp_masks, mlp, snip_masks

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks do
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def find(model, data, loss=None, method="snip", **options):
    """Keeps half of the 42 weights of an `mlp`."""
    return force_tf.PruneAtInit(method, sparsity=0.5, **options).find_masks(model, data, loss, verbose=0)


def by_hand(y_true, y_pred):
    rows = tf.range(tf.shape(y_true)[0])
    return -tf.gather_nd(tf.nn.log_softmax(y_pred), tf.stack([rows, tf.cast(y_true, tf.int32)], 1))


class ByHand(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return by_hand(y_true, y_pred)


FORMS = {
    "name": ("sparse_categorical_crossentropy", "softmax"),
    "short_name": ("SparseCategoricalCrossentropy", "softmax"),
    "function": (keras.losses.sparse_categorical_crossentropy, "softmax"),
    "instance": (FROM_LOGITS, None),
    "instance_for_softmax": (keras.losses.SparseCategoricalCrossentropy(), "softmax"),
    "lambda_over_logits": (lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True), None),
    "callable_per_row": (by_hand, None),
    "callable_of_the_mean": (lambda y, p: tf.reduce_mean(by_hand(y, p)), None),
    "own_class": (ByHand(), None),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["passed", "compiled"])
@pytest.mark.parametrize(("loss", "activation"), FORMS.values(), ids=FORMS.keys())
def test_every_form_of_loss(loss, activation, compiled):
    model = mlp(activation=activation)
    if compiled:
        model.compile("sgd", loss)
    masks = find(model, [blobs()], None if compiled else loss)
    assert masks == snip_masks(model, [[blobs()]], [21])


def test_a_loss_passed_counts_more_than_the_compiled_one():
    model = mlp()
    model.compile("sgd", "mse")
    assert find(model, [blobs()], FROM_LOGITS) == snip_masks(model, [[blobs()]], [21])


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("method", ["snip", "grasp", "force"])
def test_one_hot_and_integer_targets_give_equal_masks(method, activation):
    x, y = blobs()
    model = mlp(activation=activation)
    logits = activation is None
    integer = find(model, [(x, y)], keras.losses.SparseCategoricalCrossentropy(from_logits=logits), method)
    one_hot = find(model, [(x, np.eye(3)[y])], keras.losses.CategoricalCrossentropy(from_logits=logits), method)
    assert integer == one_hot


def test_label_smoothing_is_scored():
    x, y = blobs()
    model = mlp()
    smoothed = 0.8 * np.eye(3)[y] + 0.2 / 3

    def loss(_, outputs):
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smoothed, outputs))

    masks = find(
        model, [(x, np.eye(3)[y])], keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    )
    assert masks == snip_masks(model, [[(x, y)]], [21], loss)


@pytest.mark.parametrize("loss", [FROM_LOGITS, ByHand(), by_hand], ids=["keras", "own_class", "callable"])
def test_sample_weights_weight_the_rows(loss):
    x, y = blobs()
    weights = np.random.default_rng(3).choice([0.0, 0.5, 4.0], 24)
    model = mlp()
    masks = find(model, [(x, y, weights)], loss)
    assert masks == snip_masks(model, [[(x, y, weights)]], [21])
    assert masks != snip_masks(model, [[(x, y)]], [21]), "the case tells nothing"


def test_rows_of_weight_zero_do_not_count():
    x, y = blobs()
    model = mlp()
    masks = find(model, [(x, y, (np.arange(24) < 12).astype(float))], FROM_LOGITS)
    assert masks == snip_masks(model, [[(x[:12], y[:12])]], [21])


def test_the_sum_over_a_batch_scores_as_its_mean():
    model = mlp()
    summed = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    assert find(model, [blobs()], summed) == snip_masks(model, [[blobs()]], [21])


@pytest.mark.parametrize("method", ["snip", "force", "grasp"])
def test_regularizers_do_not_count(method):
    plain = mlp()
    regularized = mlp(kernel_regularizer=keras.regularizers.L2(100.0), activity_regularizer=keras.regularizers.L2(10.0))
    regularized.set_weights(plain.get_weights())
    assert find(regularized, [blobs()], FROM_LOGITS, method) == find(plain, [blobs()], FROM_LOGITS, method)


def test_mean_squared_error():
    x, _ = blobs()
    y = np.random.default_rng(4).standard_normal((24, 3))
    model = mlp()
    expected = snip_masks(model, [[(x, y)]], [21], lambda y, outputs: tf.reduce_mean(tf.square(y - outputs)))
    assert find(model, [(x, y)], "mse") == expected
    assert find(model, [(x, y)], keras.losses.MeanSquaredError()) == expected


@pytest.mark.parametrize("shape", [(24,), (24, 1)])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_binary_targets(shape, activation):
    x, y = blobs(classes=2)
    model = mlp((4, 8, 1), activation)  # 40 weights

    def loss(_, outputs):
        targets = y[:, None].astype(float)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, outputs))

    keras_loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    masks = find(model, [(x, y.reshape(shape))], keras_loss)
    assert masks == snip_masks(model, [[(x, y)]], [20], loss)
    expected = grasp_masks(model, (x, y), 20, loss=loss)
    assert find(model, [(x, y.reshape(shape))], keras_loss, "grasp") == expected


# Temperatures.


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_graps_temperature_divides_logits_or_log_probabilities(activation, temperature):
    model = mlp(activation=activation)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    masks = find(model, [blobs()], loss, force_tf.criteria.GraSP(temperature))
    assert masks == grasp_masks(model, blobs(), 21, temperature)


def test_the_temperature_matters_to_cross_entropies():
    model = mlp()
    once, divided = (find(model, [blobs()], FROM_LOGITS, force_tf.criteria.GraSP(t)) for t in (1.0, 200.0))
    assert once != divided


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "BinaryCrossentropy"])
def test_temperatures_divide_probabilities_of_16_bits(name, dtype):
    classes, activation = (3, "softmax") if name.startswith("Sparse") else (2, "sigmoid")
    x, y = blobs(classes=classes)
    model = mlp((4, 16, 3 if classes == 3 else 1), activation)
    precise, coarse = (find(model, [(x, y)], getattr(keras.losses, name)(dtype=d), "grasp") for d in ("float64", dtype))
    agreement = precise.intersection_over_union(coarse)
    assert agreement > 0.8, agreement  # a third by chance


def test_other_losses_ignore_the_temperature():
    x, _ = blobs()
    y = np.random.default_rng(4).standard_normal((24, 3))
    model = mlp()
    masks = find(model, [(x, y)], "mse", "grasp")
    assert masks == grasp_masks(model, (x, y), 21, 1.0, lambda y, outputs: tf.reduce_mean(tf.square(y - outputs)))


# Several outputs: a classifier and a regressor over the same hidden layer.


def two_headed(structure):
    inputs = keras.Input((4,), dtype="float64")
    hidden = keras.layers.Dense(6, "relu", dtype="float64", name="hidden")(inputs)
    label = keras.layers.Dense(3, dtype="float64", name="label")(hidden)
    size = keras.layers.Dense(2, dtype="float64", name="size")(hidden)
    return keras.Model(inputs, {"size": size, "label": label} if structure is dict else [label, size])


def two_headed_masks(model, x, label, size, factors, count):
    """SNIP of Σ factor · loss, with biases at zero."""
    kernels = dense_kernels_by_name(model)
    with tf.GradientTape() as tape:
        tape.watch(kernels)
        hidden = tf.nn.relu(x @ kernels["hidden"])
        losses = (
            cross_entropy(label, hidden @ kernels["label"]),
            tf.reduce_mean(tf.square(hidden @ kernels["size"] - size)),
        )
        value = factors[0] * losses[0] + factors[1] * losses[1]
    scores = {name: np.abs(kernels[name] * gradient) for name, gradient in tape.gradient(value, kernels).items()}
    names = [layer.name for layer in model.layers if layer.weights]
    order = np.argsort(-np.concatenate([scores[name].ravel() for name in names]), kind="stable")
    keep = np.isin(np.arange(len(order)), order[:count])
    ends = np.cumsum([scores[name].size for name in names])
    return {f"{name}/kernel": part.reshape(scores[name].shape) for name, part in zip(names, np.split(keep, ends[:-1]))}


def dense_kernels_by_name(model):
    layers = [layer for layer in model.layers if layer.weights]
    return {layer.name: tf.constant(layer.kernel) for layer in layers}


def two_targets():
    x, label = blobs()
    return x, label, np.random.default_rng(4).standard_normal((24, 2))


LOSSES = {
    dict: {"label": FROM_LOGITS, "size": "mse"},
    list: [FROM_LOGITS, "mse"],
}


@pytest.mark.parametrize("targets", [dict, list, tuple])
@pytest.mark.parametrize("losses", [dict, list])
@pytest.mark.parametrize("outputs", [dict, list])
def test_several_outputs_sum_their_losses(outputs, losses, targets):
    x, label, size = two_targets()
    model = two_headed(outputs)
    y = {"label": label, "size": size} if targets is dict else targets([label, size])
    expected = two_headed_masks(model, x, label, size, (1, 1), 24)  # of 54 weights
    masks = force_tf.PruneAtInit("snip", sparsity=1 - 24 / 54).find_masks(model, [(x, y)], LOSSES[losses], verbose=0)
    assert masks == expected


@pytest.mark.parametrize("structure", [dict, list])
def test_compiled_loss_weights_count(structure):
    x, label, size = two_targets()
    model = two_headed(structure)
    factors = {"label": 0.1, "size": 7.0}
    model.compile("sgd", LOSSES[structure], loss_weights=factors if structure is dict else list(factors.values()))
    y = structure({"label": label, "size": size}.items() if structure is dict else (label, size))
    masks = force_tf.PruneAtInit("snip", sparsity=1 - 24 / 54).find_masks(model, [(x, y)], verbose=0)
    assert masks == two_headed_masks(model, x, label, size, (0.1, 7.0), 24)
    assert masks != two_headed_masks(model, x, label, size, (1, 1), 24), "the case tells nothing"


@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")
@pytest.mark.parametrize("loss", [{"label": FROM_LOGITS, "size": None}, {"label": FROM_LOGITS}])
@pytest.mark.parametrize("with_target", [True, False], ids=["all_targets", "scored_targets"])
def test_an_output_without_a_loss_is_not_scored(loss, with_target):
    x, label, size = two_targets()
    model = two_headed(dict)
    y = {"label": label, "size": size} if with_target else {"label": label}
    masks = force_tf.PruneAtInit("snip", sparsity=1 - 24 / 54).find_masks(model, [(x, y)], loss, verbose=0)
    assert masks == two_headed_masks(model, x, label, size, (1, 0), 24)


@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")
def test_sample_weights_for_each_output():
    x, label, size = two_targets()
    model = two_headed(dict)
    weights = {"label": np.ones(24), "size": np.zeros(24)}
    data = [(x, {"label": label, "size": size}, weights)]
    masks = force_tf.PruneAtInit("snip", sparsity=1 - 24 / 54).find_masks(model, data, LOSSES[dict], verbose=0)
    assert masks == two_headed_masks(model, x, label, size, (1, 0), 24)


# What is not scored stays as it is.


def test_metrics_optimizer_and_loss_trackers_stay_as_they_are():
    model = mlp()
    model.compile("adam", FROM_LOGITS, metrics=["accuracy"])
    model.fit(*blobs(), verbose=0)
    state = [np.array(v) for v in (*model.optimizer.variables, *model.metrics_variables)]
    find(model, [blobs()], method="force", steps=3)
    for before, variable in zip(state, (*model.optimizer.variables, *model.metrics_variables)):
        np.testing.assert_array_equal(variable, before, variable.path)


def test_a_loss_object_stays_as_it_is():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = loss.get_config()
    find(mlp(), [blobs()], loss, "grasp")
    assert loss.get_config() == before
