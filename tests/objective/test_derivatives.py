"""Second derivatives agree with finite differences in float64, through every normalization layer."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from force_tf.objective.gradients import GradientFunction

NORMALIZATIONS = {
    "none": None,
    "batch": ("BatchNormalization", {}),
    "batch_first_axis": ("BatchNormalization", {"axis": 1}),
    "batch_synchronized": ("BatchNormalization", {"synchronized": True}),
    "layer": ("LayerNormalization", {}),
    "layer_two_axes": ("LayerNormalization", {"axis": (1, 2)}),
    "group": ("GroupNormalization", {"groups": 2}),
    "unit": ("UnitNormalization", {}),
    "rms": ("RMSNormalization", {}),
}
ONLY_IN_KERAS_3 = ("RMSNormalization",)


def network(keras, normalization, dtype="float64"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2), dtype=dtype)
    x = keras.layers.Conv2D(4, 3, activation="tanh", dtype=dtype)(inputs)
    if normalization is not None:
        name, options = normalization
        x = getattr(keras.layers, name)(dtype=dtype, **options)(x)
    x = keras.layers.SeparableConv2D(3, 2, activation="softplus", dtype=dtype)(x)
    x = keras.layers.Flatten(dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(3, dtype=dtype)(x))


@pytest.mark.parametrize(
    ("module", "normalization"),
    [
        (module, name)
        for module in ("keras", "tf_keras")
        for name, layer in NORMALIZATIONS.items()
        if not (module == "tf_keras" and layer and layer[0] in ONLY_IN_KERAS_3)
    ],
)
def test_hessian_product_is_the_derivative_of_the_gradient(module, normalization):
    model = network(importlib.import_module(module), NORMALIZATIONS[normalization])
    random = np.random.default_rng(0)
    x, y = random.standard_normal((5, 6, 6, 2)), random.integers(0, 3, 5)
    variables = model.trainable_variables
    state = [v.numpy() for v in model.variables]

    def loss(x, y):
        logits = model(x, training=True)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

    specs = [tf.TensorSpec([None, *x.shape[1:]], tf.float64), tf.TensorSpec([None], tf.int64)]
    function = GradientFunction(loss, variables, [v.name for v in variables], specs)
    vectors = [random.standard_normal(v.shape) for v in variables]
    product = function.hessian_product([tf.constant(v) for v in vectors], x, y)

    def gradient_at(shift):
        for variable, value, vector in zip(variables, [v.numpy() for v in variables], vectors):
            variable.assign(value + shift * vector)
        gradient = [g.numpy() for g in function(x, y)]
        for variable, value in zip(model.variables, state):
            variable.assign(value)
        return gradient

    step = 1e-5
    for path, exact, plus, minus in zip((v.name for v in variables), product, gradient_at(step), gradient_at(-step)):
        expected = (plus - minus) / (2 * step)
        np.testing.assert_allclose(exact, expected, atol=1e-7 * max(1, np.abs(expected).max()), rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("normalization", ["batch", "layer", "group"])
def test_fused_kernels_of_tf_keras_have_the_same_second_derivatives(normalization):
    """In float32 tf_keras computes normalizations by fused kernels, which have second derivatives of their own."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((5, 6, 6, 2)), random.integers(0, 3, 5)
    products, vectors, state = {}, None, None
    for dtype in ("float64", "float32"):
        model = network(tf_keras, NORMALIZATIONS[normalization], dtype)
        state = [v.numpy() for v in model.variables] if state is None else state
        for variable, value in zip(model.variables, state):
            variable.assign(tf.cast(value, dtype))
        variables = model.trainable_variables
        vectors = [random.standard_normal(v.shape) for v in variables] if vectors is None else vectors

        def loss(x, y, model=model):
            logits = model(x, training=True)
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

        specs = [tf.TensorSpec([None, *x.shape[1:]], dtype), tf.TensorSpec([None], tf.int64)]
        function = GradientFunction(loss, variables, [v.name for v in variables], specs)
        products[dtype] = function.hessian_product([tf.constant(v, dtype) for v in vectors], tf.constant(x, dtype), y)
    for variable, exact, fused in zip(variables, products["float64"], products["float32"]):
        scale = np.abs(exact).max()
        np.testing.assert_allclose(fused, exact, atol=1e-4 * scale, err_msg=variable.name)


def test_tensorflow_keeps_its_own_moments():
    before = tf.nn.moments
    model = network(keras, NORMALIZATIONS["batch"])
    data = (np.ones((4, 6, 6, 2)) * np.arange(4)[:, None, None, None], np.arange(4) % 3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    force_tf.PruneAtInit("grasp", sparsity=0.5).find_masks(model, data, loss, verbose=0)
    assert tf.nn.moments is before


def quadratic_model(start):
    """A model whose output is its three weights, so that the loss below is ½ wᵀAw + bᵀw with known derivatives."""
    model = keras.Sequential(
        [keras.Input((1,), dtype="float64"), keras.layers.Dense(3, use_bias=False, dtype="float64", name="weights")]
    )
    model.layers[0].kernel.assign(start[None])
    return model


def quadratic_loss(a, b):
    def loss(y_true, y_pred):
        w = y_pred[0]
        return tf.einsum("i,ij,j->", w, tf.constant(a), w) / 2 + tf.reduce_sum(w * y_true[0] * tf.constant(b))

    return loss


def prospr_scores(model, data, loss, **options):
    seen = []

    class Recorded(force_tf.criteria.ProsPr):
        def scores(self, network):
            seen.extend(map(np.asarray, super().scores(network)))
            return seen

    force_tf.PruneAtInit(Recorded(**options), sparsity=0.5).find_masks(model, data, loss, verbose=0)
    return seen


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("first_order", [True, False])
def test_prospr_meta_gradient_of_a_quadratic(momentum, first_order):
    """Against the closed form: the inner steps are linear maps, differentiated by hand with NumPy."""
    random = np.random.default_rng(0)
    a = random.standard_normal((3, 3))
    a = a + a.T
    b, start, rate, steps = random.standard_normal(3), random.standard_normal(3), 0.1, 3
    targets = [np.full((1, 3), value) for value in (1.0, -0.5, 2.0, 0.7)]

    w, velocity = start, np.zeros(3)
    dw, dvelocity = np.eye(3), np.zeros((3, 3))  # derivatives by w_0
    for target in targets[:steps]:
        velocity = momentum * velocity + a @ w + b * target[0]
        dvelocity = momentum * dvelocity + a @ dw
        w, dw = w - rate * velocity, dw - rate * dvelocity
    gradient = a @ w + b * targets[steps][0]
    expected = np.abs(start * (gradient if first_order else dw.T @ gradient))

    model = quadratic_model(start)
    data = [(np.ones((1, 1)), target) for target in targets]
    options = {"inner_steps": steps, "inner_learning_rate": rate, "momentum": momentum, "first_order": first_order}
    scores = prospr_scores(model, data, quadratic_loss(a, b), **options)
    np.testing.assert_allclose(scores[0][0], expected, rtol=1e-10)
    np.testing.assert_array_equal(model.layers[0].kernel.numpy()[0], start)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_prospr_drops_on_the_way_back_what_it_dropped_on_the_way_there(momentum):
    """Against the inner steps unrolled under one tape, by Keras's own calls without state."""
    keras.utils.set_random_seed(0)
    with_dtype = {"dtype": "float64"}
    model = keras.Sequential(
        [
            keras.Input((4,), **with_dtype),
            keras.layers.Dense(6, "tanh", **with_dtype),
            keras.layers.Dropout(0.5, seed=3, **with_dtype),
            keras.layers.Dense(3, **with_dtype),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **with_dtype)
    random = np.random.default_rng(0)
    batches = [(random.standard_normal((5, 4)), random.integers(0, 3, 5)) for _ in range(4)]
    before = [variable.numpy() for variable in model.variables]
    start = trained = [tf.constant(variable.numpy()) for variable in model.trainable_variables]
    state = [tf.constant(variable.numpy()) for variable in model.non_trainable_variables]
    with tf.GradientTape() as outer:
        outer.watch(start)
        velocities = [tf.zeros_like(value) for value in start]
        for x, y in batches[:-1]:
            with tf.GradientTape() as inner:
                inner.watch(trained)
                outputs, state = model.stateless_call(trained, state, x, training=True)
                value = loss(y, outputs)
            velocities = [momentum * v + g for v, g in zip(velocities, inner.gradient(value, trained))]
            trained = [value - 0.5 * v for value, v in zip(trained, velocities)]
        x, y = batches[-1]
        value = loss(y, model.stateless_call(trained, state, x, training=True)[0])
    gradients = outer.gradient(value, start)
    kernels = [place for place, value in enumerate(start) if value.shape.rank == 2]

    scores = prospr_scores(model, batches, loss, inner_steps=3, inner_learning_rate=0.5, momentum=momentum)
    for place, found in zip(kernels, scores, strict=True):
        np.testing.assert_allclose(found, abs(start[place] * gradients[place]), rtol=1e-8)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_grasp_of_a_quadratic():
    """θ ⊙ Hg = θ ⊙ A(Aθ + b), signed; the temperature does not concern a loss that is no cross-entropy."""
    random = np.random.default_rng(1)
    a = random.standard_normal((3, 3))
    a = a + a.T
    b, start = random.standard_normal(3), random.standard_normal(3)
    model = quadratic_model(start)
    masks = force_tf.PruneAtInit("grasp", sparsity=0.6).find_masks(
        model, [(np.ones((1, 1)), np.ones((1, 3)))], quadratic_loss(a, b), verbose=0
    )
    expected = start * (a @ (a @ start + b))
    assert np.flatnonzero(masks["weights/kernel"]) == [expected.argmax()]
