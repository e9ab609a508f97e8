"""Early tickets: held against the same search in NumPy, where training and cuts are written out."""

import keras
import numpy as np
import pytest

import force_tf


def batches(count, rng, size=20):
    return [(rng.normal(size=(size, 4)), rng.integers(0, 3, size)) for _ in range(count)]


def model_of(either_keras, **compiled):
    layers = either_keras.layers
    parts = [layers.Dense(6, activation="tanh", name="first"), layers.Dense(3, activation="softmax", name="head")]
    model = either_keras.Sequential([either_keras.Input((4,)), *parts])
    if compiled:
        model.compile(loss="sparse_categorical_crossentropy", **compiled)
    return model


def gradients(weights, x, y):
    """Returns the gradients of the mean cross-entropy of a network of two layers."""
    first, first_bias, head, head_bias = weights
    hidden = np.tanh(x @ first + first_bias)
    logits = hidden @ head + head_bias
    outputs = np.exp(logits - logits.max(axis=1, keepdims=True))
    outputs /= outputs.sum(axis=1, keepdims=True)
    errors = (outputs - np.eye(3)[y]) / len(y)
    inner = (errors @ head.T) * (1 - hidden**2)
    return [x.T @ inner, inner.sum(axis=0), hidden.T @ errors, errors.sum(axis=0)]


def expected_masks(weights, data, counts, inner_steps, rate, momentum):
    weights = [np.array(weight, "float64") for weight in weights]
    velocities = [np.zeros_like(weight) for weight in weights]
    masks = [np.ones_like(weight) for weight in weights]
    data = iter(data)
    for count in counts:
        for _ in range(inner_steps):
            masked = [weight * mask for weight, mask in zip(weights, masks)]
            for i, gradient in enumerate(gradients(masked, *next(data))):
                velocities[i] = (momentum * velocities[i] - rate * gradient) * masks[i]
                weights[i] = weights[i] + velocities[i]
        scores = np.concatenate([np.abs(weights[0]).ravel(), np.abs(weights[2]).ravel()])
        keep = np.zeros(scores.size, bool)
        keep[np.argsort(-scores, kind="stable")[:count]] = True
        masks[0], masks[2] = keep[:24].reshape(4, 6), keep[24:].reshape(6, 3)
    return masks[0].astype(bool), masks[2].astype(bool)


@pytest.mark.usefixtures("float64")
def test_masks_are_those_of_training_and_cuts_in_turn(either_keras):
    data = batches(30, np.random.default_rng(1))
    model = model_of(either_keras)
    # Rates at which weights that fell come back, and whose velocities matter.
    criterion = force_tf.criteria.EarlyTicket(inner_steps=3, learning_rate=1.0, momentum=0.9)
    pruner = force_tf.PruneAtInit(criterion, sparsity=0.7, steps=10)
    masks = pruner.find_masks(model, data, "sparse_categorical_crossentropy", verbose=0)
    counts = [round(42 * 0.3 ** (t / 10)) for t in range(1, 11)]
    expected = expected_masks(model.get_weights(), data, counts, 3, 1.0, 0.9)
    np.testing.assert_array_equal(masks["first/kernel"], expected[0])
    np.testing.assert_array_equal(masks["head/kernel"], expected[1])
    assert sum(row["revived"] for row in pruner.history) > 0


def masks_with(model, criterion, data):
    loss = "sparse_categorical_crossentropy"
    return force_tf.PruneAtInit(criterion, sparsity=0.5, steps=3).find_masks(model, data, loss, verbose=0)


def test_the_rate_is_that_of_the_compiled_sgd(either_keras):
    data = batches(6, np.random.default_rng(2))
    optimizers = either_keras.optimizers
    schedule = optimizers.schedules.ExponentialDecay(0.7, 10, 0.5)
    plain = model_of(either_keras)
    expected = {
        rate: masks_with(plain, force_tf.criteria.EarlyTicket(2, learning_rate=rate), data) for rate in (0.7, 0.1)
    }
    assert expected[0.7] != expected[0.1]
    assert masks_with(plain, force_tf.criteria.EarlyTicket(2), data) == expected[0.1]
    # A rate of Adam's means something else.
    cases = [(optimizers.SGD(0.7), 0.7), (optimizers.SGD(schedule), 0.7), (optimizers.Adam(0.7), 0.1)]
    if either_keras.__name__ == "tf_keras":
        cases.append((optimizers.legacy.SGD(0.7), 0.7))
    for optimizer, rate in cases:
        compiled = model_of(either_keras, optimizer=optimizer)
        compiled.set_weights(plain.get_weights())
        assert masks_with(compiled, force_tf.criteria.EarlyTicket(2), data) == expected[rate]


def test_a_rate_that_starts_at_zero_is_refused():
    warming_up = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    model = model_of(keras, optimizer=keras.optimizers.SGD(warming_up))
    with pytest.raises(ValueError, match=r"learning rate is positive.*EarlyTicket\(learning_rate=\.\.\.\).*of 0\.0"):
        masks_with(model, force_tf.criteria.EarlyTicket(2), batches(6, np.random.default_rng(2)))


def test_training_that_comes_to_a_standstill_is_told(either_keras):
    """A large step leaves every hidden unit at zero for every row, and then nothing moves but the head's bias."""
    model = either_keras.Sequential(
        [
            either_keras.Input((6,)),
            either_keras.layers.Dense(5, "relu", name="hidden", kernel_initializer="ones"),
            either_keras.layers.Dense(2, name="head", kernel_initializer="ones"),
        ]
    )
    data = [(np.ones((4, 6), "float32"), np.zeros((4, 2), "float32"))]
    ticket = force_tf.criteria.EarlyTicket(inner_steps=8, learning_rate=1.0)
    expected = r"standstill: in most of the last 2 of 8 steps no gradient reaches hidden/kernel, head/kernel, .*"
    with pytest.warns(UserWarning, match=expected + r"learning_rate=0\.1\. Received: learning_rate=1$") as caught:
        force_tf.PruneAtInit(ticket, sparsity=0.2, steps=2).find_masks(model, data, "mse", verbose=0)
    assert caught[0].filename == __file__
    small = force_tf.criteria.EarlyTicket(inner_steps=8, learning_rate=0.001)
    force_tf.PruneAtInit(small, sparsity=0.2, steps=2).find_masks(model, data, "mse", verbose=0)
