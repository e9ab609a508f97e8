"""What models train on beside a compiled loss gives the masks of the same loss written by hand, in both Kerases."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from helpers.refusal import assert_one_sentence

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks do
KERASES = pytest.mark.parametrize("module", [keras, tf_keras], ids=["keras", "tf_keras"])
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((24, 5)).astype("float32")
CLASSES = RANDOM.integers(0, 5, 24)
NUMBERS = RANDOM.standard_normal((24, 5)).astype("float32")
WEIGHTS = RANDOM.random(24).astype("float32")


def stack(module, **options):
    """Two layers, of 60 weights: 5 inputs, 6 hidden units, 5 outputs."""
    return [
        module.layers.Dense(6, "tanh", bias_initializer="normal", name="first", **options),
        module.layers.Dense(5, bias_initializer="normal", name="second", **options),
    ]


def by_hand(model, loss, x=X):
    """The 20 weights of the largest |θ·∂L/∂θ|, for a loss of the hidden units and the outputs."""
    variables = [tf.constant(weight) for weight in model.get_weights()[:4]]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        hidden = tf.tanh(x @ variables[0] + variables[1])
        value = loss(hidden, hidden @ variables[2] + variables[3])
    gradients = tape.gradient(value, variables, unconnected_gradients="zero")
    scores = np.concatenate([np.abs(v * g).ravel() for v, g in zip(variables[::2], gradients[::2])])
    return np.isin(np.arange(60), np.argsort(-scores)[:20])


def found(model, data, method="snip", **options):
    masks = force_tf.PruneAtInit(method, sparsity=2 / 3, seed=0).find_masks(model, data, verbose=0, **options)
    return np.concatenate([mask.ravel() for mask in masks.values()])


def squares(y, outputs):
    return tf.reduce_mean(tf.square(y - outputs))


def cross_entropy(outputs):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(CLASSES, outputs))


# What layers add.


def with_endpoint(module, **options):
    """A model whose last layer has the classes as an input and adds the loss."""

    class Endpoint(module.layers.Layer):
        def call(self, classes, outputs):
            self.add_loss(module.losses.SparseCategoricalCrossentropy(from_logits=True)(classes, outputs))
            return outputs

    module.utils.set_random_seed(0)
    inputs, classes = module.Input((5,), name="image"), module.Input((), dtype="int32", name="label")
    first, second = stack(module, **options)
    model = module.Model({"image": inputs, "label": classes}, Endpoint()(classes, second(first(inputs))))
    model.compile("sgd")
    return model


NAMED = {"image": X, "label": CLASSES}
WITHOUT_TARGETS = {
    "inputs": lambda: NAMED,
    "tuple_of_inputs": lambda: (NAMED,),
    "no_targets": lambda: (NAMED, None),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(NAMED).batch(24),
    "list": lambda: [NAMED],
    "generator": lambda: iter([(NAMED,)]),
    "with_targets": lambda: (NAMED, np.zeros(24)),
}


@KERASES
@pytest.mark.parametrize("data", WITHOUT_TARGETS.values(), ids=WITHOUT_TARGETS.keys())
def test_a_loss_that_a_layer_adds(module, data):
    model = with_endpoint(module)
    np.testing.assert_array_equal(found(model, data()), by_hand(model, lambda _, outputs: cross_entropy(outputs)))
    if data() is NAMED:
        model.fit(NAMED, verbose=0)


@KERASES
@pytest.mark.parametrize("method", ["snip", "force", "grasp", "prospr"])
def test_regularizers_of_weights_and_activities_are_no_part_of_it(module, method):
    plain = with_endpoint(module)
    options = {f"{what}_regularizer": module.regularizers.L2(9.0) for what in ("kernel", "bias", "activity")}
    regularized = with_endpoint(module, **options)
    losses = len(regularized.losses)
    np.testing.assert_array_equal(found(regularized, NAMED, method), found(plain, NAMED, method))
    history = regularized.fit(NAMED, batch_size=24, verbose=0).history["loss"]
    assert history[0] > plain.fit(NAMED, batch_size=24, verbose=0).history["loss"][0] + 9, "they are back"
    assert len(regularized.losses) >= losses


@KERASES
@pytest.mark.parametrize("wrapper", ["TimeDistributed", "Bidirectional"])
def test_regularizers_in_wrappers(module, wrapper):
    def model(regularizer):
        module.utils.set_random_seed(0)
        options = {"activity_regularizer": regularizer, "kernel_regularizer": regularizer}
        inner = module.layers.Dense(3, **options) if wrapper == "TimeDistributed" else module.layers.GRU(3, **options)
        wrapped = getattr(module.layers, wrapper)(inner, name="wrapped")
        model = module.Sequential([module.Input((4, 5)), wrapped, module.layers.Flatten(), module.layers.Dense(2)])
        model.compile("sgd", "mse")
        return model

    data = (RANDOM.standard_normal((8, 4, 5)), RANDOM.standard_normal((8, 2)))
    regularized = model(module.regularizers.L2(9.0))
    np.testing.assert_array_equal(found(regularized, data), found(model(None), data))


def coder(module, loss="mse", **methods):
    """A subclassed model that adds a loss of its hidden units and outputs."""

    class Coder(module.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = stack(module)

        def call(self, inputs):
            hidden = self.first(inputs)
            outputs = self.second(hidden)
            self.add_loss(0.5 * tf.reduce_sum(tf.square(hidden)))
            self.add_loss(tf.reduce_mean(tf.abs(outputs)))
            return outputs

    module.utils.set_random_seed(0)
    model = type("Coder", (Coder,), methods)()
    model(X[:1])
    model.compile("sgd", loss)
    return model


def added(hidden, outputs):
    return 0.5 * tf.reduce_sum(tf.square(hidden)) + tf.reduce_mean(tf.abs(outputs))


@KERASES
def test_what_layers_add_counts_with_the_compiled_loss(module):
    model = coder(module)
    both = by_hand(model, lambda hidden, outputs: squares(NUMBERS, outputs) + added(hidden, outputs))
    alone = by_hand(model, lambda _, outputs: squares(NUMBERS, outputs))
    assert not np.array_equal(both, alone), "the case tells nothing"
    np.testing.assert_array_equal(found(model, (X, NUMBERS)), both)
    np.testing.assert_array_equal(
        found(model, (X, NUMBERS), loss="mse"), alone, "a loss that is given counts by itself"
    )


@KERASES
@pytest.mark.parametrize("data", [X, pd.DataFrame(X), X.tolist()], ids=["array", "frame", "list"])
def test_arrays_alone(module, data):
    model = coder(module, loss=None)
    np.testing.assert_array_equal(found(model, data), by_hand(model, added))


# What the model computes itself.


def computing(module, compute_loss, loss=None, **options):
    """A Functional model with a `compute_loss` of its own."""
    module.utils.set_random_seed(0)
    inputs = module.Input((5,))
    first, second = stack(module, **options)
    kind = type("Computing", (module.Model,), {"compute_loss": compute_loss})
    model = kind(inputs, second(first(inputs)))
    model.compile("sgd", loss)
    return model


def reconstruction(self, x=None, y=None, y_pred=None, sample_weight=None):
    return tf.reduce_mean(tf.square(x - y_pred))


def weighted(self, x, y, y_pred, sample_weight, training=True):
    assert training
    return tf.reduce_mean(tf.square(y - y_pred) * sample_weight[:, None])


@KERASES
@pytest.mark.parametrize(
    "data", [X, X.astype("float64"), pd.DataFrame(X), (X, None)], ids=["float32", "float64", "frame", "pair"]
)
def test_a_loss_that_the_model_computes_from_its_inputs(module, data):
    model = computing(module, reconstruction)
    np.testing.assert_array_equal(found(model, data), by_hand(model, lambda _, outputs: squares(X, outputs)))


@KERASES
def test_a_loss_that_the_model_computes_from_targets_and_sample_weights(module):
    model = computing(module, weighted, loss="mae")
    expected = by_hand(model, lambda _, outputs: tf.reduce_mean(tf.square(NUMBERS - outputs) * WEIGHTS[:, None]))
    np.testing.assert_array_equal(found(model, (X, NUMBERS.astype("float64"), WEIGHTS.astype("float64"))), expected)


@KERASES
@pytest.mark.parametrize("kinds", [("kernel", "activity"), ("kernel",), ("activity",)], ids="-".join)
def test_regularizers_in_a_loss_that_the_model_computes(module, kinds):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return tf.reduce_mean(tf.square(y - y_pred)) + tf.add_n(self.losses)

    options = {f"{kind}_regularizer": module.regularizers.L2(5.0) for kind in kinds}
    model = computing(module, compute_loss, **options)
    np.testing.assert_array_equal(
        found(model, (X, NUMBERS)), by_hand(model, lambda _, outputs: squares(NUMBERS, outputs))
    )
    assert model.get_layer("first").activity_regularizer is options.get("activity_regularizer")


@KERASES
def test_a_loss_that_adds_to_the_compiled_one(module):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        compiled = module.Model.compute_loss(self, x, y, y_pred, sample_weight)
        return compiled + tf.reduce_mean(tf.abs(y_pred))

    model = computing(module, compute_loss, loss="mse")
    expected = by_hand(model, lambda _, outputs: squares(NUMBERS, outputs) + tf.reduce_mean(tf.abs(outputs)))
    np.testing.assert_array_equal(found(model, (X, NUMBERS)), expected)


@KERASES
@pytest.mark.parametrize("method", ["grasp", "prospr", "iter_grasp"])
def test_other_methods_score_it_as_if_it_were_given(module, method):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return tf.reduce_mean(tf.square(y - y_pred))

    model = computing(module, compute_loss)
    given = found(model, (X, NUMBERS), method, loss="mse")
    np.testing.assert_array_equal(found(model, (X, NUMBERS), method), given)


@KERASES
def test_metrics_come_back_as_they_were(module):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        value = module.Model.compute_loss(self, x, y, y_pred, sample_weight)
        self.tracker.update_state(value)
        return value

    model = computing(module, compute_loss, loss="mse")
    model.tracker = module.metrics.Mean(name="tracker")
    model.tracker.update_state(3.0)
    before = [np.asarray(variable) for variable in model.tracker.variables]
    found(model, (X, NUMBERS))
    for variable, value in zip(model.tracker.variables, before):
        np.testing.assert_array_equal(variable, value)
    assert all(np.all(np.asarray(each) == 0) for m in model.metrics if m is not model.tracker for each in m.variables)


@KERASES
def test_metrics_that_layers_update_come_back_as_they_were(module):
    class Watching(module.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seen = module.metrics.Mean(name="seen")

        def call(self, inputs):
            self.seen.update_state(tf.reduce_mean(inputs))
            return inputs

    watching = Watching()
    model = module.Sequential([module.Input((5,)), watching, *stack(module)])
    watching.seen.update_state(3.0)
    before = [np.asarray(variable) for variable in watching.seen.variables]
    found(model, (X, NUMBERS), loss="mse")
    for variable, value in zip(watching.seen.variables, before):
        np.testing.assert_array_equal(variable, value)


def refused(model, data, expected, received="", error=ValueError, **options):
    with pytest.raises(error) as caught:
        found(model, data, **options)
    assert_one_sentence(caught.value, expected, received)


@KERASES
def test_targets_that_the_model_seems_to_need(module):
    model = computing(module, lambda self, x, y, y_pred, sample_weight: tf.reduce_mean(y_pred - y))
    refused(model, X, "data with targets, which the `compute_loss` of the model", "batches without them")


@KERASES
def test_a_compute_loss_that_returns_nothing(module):
    model = computing(module, lambda self, x, y, y_pred, sample_weight: None)
    refused(model, X, "a `compute_loss` that returns a tensor", "None", TypeError)


# A training step of the model's own.


def own_step(self, data):
    raise AssertionError("a search does not train")


@KERASES
def test_a_training_step_of_its_own_is_told_with_what_is_scored(module):
    model = coder(module, train_step=own_step)
    with pytest.warns(
        UserWarning, match="`train_step` of its own.*: its compiled loss is scored. Pass `loss=`"
    ) as caught:
        masks = found(model, (X, NUMBERS))
    assert caught[0].filename == __file__
    expected = by_hand(model, lambda hidden, outputs: squares(NUMBERS, outputs) + added(hidden, outputs))
    np.testing.assert_array_equal(masks, expected)
    model.compile("sgd")
    with pytest.warns(UserWarning, match="what its layers add by `add_loss` is scored"):
        masks = found(model, X)
    np.testing.assert_array_equal(masks, by_hand(model, added))


@KERASES
def test_a_loss_that_is_given_silences_the_warning(module):
    model = coder(module, train_step=own_step)
    alone = by_hand(model, lambda _, outputs: squares(NUMBERS, outputs))
    np.testing.assert_array_equal(found(model, (X, NUMBERS), loss="mse"), alone)


@KERASES
@pytest.mark.filterwarnings("ignore:The model .* trains by a `train_step` of its own")
def test_a_training_step_of_its_own_without_a_loss(module):
    kind = type("Stepping", (module.Sequential,), {"train_step": own_step})
    model = kind([module.Input((5,)), *stack(module)])
    model.compile("sgd")
    refused(model, (X, NUMBERS), "`loss=`, since a search cannot look into the `train_step`", "compiled without a loss")


@KERASES
def test_neither_a_loss_nor_what_adds_one(module):
    options = {"activity_regularizer": "l2", "kernel_regularizer": "l2"}
    model = module.Sequential([module.Input((5,)), *stack(module, **options)])
    model.compile("sgd")
    refused(model, (X, NUMBERS), "a loss: compile the model with one, or pass `loss=`", "whose layers add none")
