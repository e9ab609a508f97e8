"""NTK-SAP, held against a network written out in NumPy, which is differentiated by complex steps."""

import keras
import numpy as np
import pytest

import force_tf

ROWS, EPSILON, ROUNDS, SEED = 6, 0.05, 3, 7


def model_of(either_keras):
    layers = either_keras.layers
    return either_keras.Sequential(
        [
            either_keras.Input((3,)),
            layers.Dense(4, use_bias=False, name="first"),
            layers.BatchNormalization(epsilon=0.01, name="norm"),
            layers.Activation("tanh"),
            layers.Dense(2, activation="softmax", name="head"),
        ]
    )


def derivative(masks, weights, noise, x, bias):
    """∂/∂m Σ‖f(θ⊙m) − f((θ+εΔ)⊙m)‖², with the statistics of the batch at the masks that there are."""
    before = x @ (weights[0] * masks[0])
    mean, deviation = before.mean(axis=0), np.sqrt(before.var(axis=0) + 0.01)

    def outputs(first, head):
        return np.tanh((x @ first - mean) / deviation) @ head + bias

    def distance(masks):
        here = outputs(*(w * m for w, m in zip(weights, masks)))
        there = outputs(*((w + EPSILON * d) * m for w, d, m in zip(weights, noise, masks)))
        return ((here - there) ** 2).sum()

    found = [np.zeros(mask.shape) for mask in masks]
    for part, gradient in enumerate(found):
        for place in np.ndindex(gradient.shape):
            moved = [mask.astype(complex) for mask in masks]
            moved[part][place] += 1e-30j
            gradient[place] = distance(moved).imag / 1e-30
    return found


def expected_masks(counts, bias, values=None):
    random, masks = np.random.default_rng(SEED), [np.ones((3, 4)), np.ones((4, 2))]

    def draw(*shape):
        return random.standard_normal(shape, np.float32).astype("float64")

    for count in counts:
        total = [np.zeros_like(mask) for mask in masks]
        for _ in range(ROUNDS):
            weights = values or [np.sqrt(2 / 3) * draw(3, 4), np.sqrt(2 / 4) * draw(4, 2)]
            noise = [draw(3, 4), draw(4, 2)]
            x = draw(ROWS, 3)
            total = [sum_ + part for sum_, part in zip(total, derivative(masks, weights, noise, x, bias))]
        scores = np.concatenate([(np.abs(part) * mask).ravel() for part, mask in zip(total, masks)])
        keep = np.zeros(20)
        keep[np.argsort(-scores, kind="stable")[:count]] = 1
        masks = [keep[:12].reshape(3, 4), keep[12:].reshape(4, 2)]
    return [mask.astype(bool) for mask in masks]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("redraw", [True, False])
def test_masks_are_those_of_the_definition(either_keras, redraw):
    model = model_of(either_keras)
    model.layers[-1].bias.assign([0.3, -0.2])
    before = model.get_weights()
    values = None if redraw else [before[0], before[-2]]
    criterion = force_tf.criteria.NTKSAP(epsilon=EPSILON, rows=ROWS, redraw=redraw)
    for steps, counts in ((1, [13]), (3, [14, 10, 7])):
        pruner = force_tf.PruneAtInit(
            criterion, sparsity=1 - counts[-1] / 20, steps=steps, schedule="exponential", batches=ROUNDS, seed=SEED
        )
        masks = pruner.find_masks(model, verbose=0)
        assert [row["kept"] for row in pruner.history] == counts
        expected = expected_masks(counts, np.array([0.3, -0.2]), values)
        np.testing.assert_array_equal(masks["first/kernel"], expected[0])
        np.testing.assert_array_equal(masks["head/kernel"], expected[1])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_defaults_are_those_of_the_authors():
    pruner = force_tf.PruneAtInit("ntk_sap")
    assert (pruner.steps, pruner.batches, pruner.revive, pruner.schedule) == (20, 5, False, "exponential")
    assert (pruner.criterion.epsilon, pruner.criterion.redraw) == (0.01, True)


def test_of_data_only_what_cannot_be_drawn_is_taken(either_keras):
    layers = either_keras.layers
    tokens = either_keras.Sequential(
        [either_keras.Input((4,), dtype="int32"), layers.Embedding(9, 3), layers.Flatten(), layers.Dense(2)]
    )
    pruner = force_tf.PruneAtInit("ntk_sap", sparsity=0.5, steps=2, seed=0)
    with pytest.raises(ValueError, match=r"^Expected `data`, since only inputs that are floats.*inputs of int32$"):
        pruner.find_masks(tokens, verbose=0)
    some, others = (np.random.default_rng(seed).integers(0, 9, (8, 4)) for seed in (0, 1))
    masks = pruner.find_masks(tokens, some, verbose=0)
    assert masks.kept == 12
    images = either_keras.Sequential([either_keras.Input((4,)), layers.Dense(5, "relu"), layers.Dense(2)])
    assert pruner.find_masks(images, some * 1.0, verbose=0) == pruner.find_masks(images, others * 1.0, verbose=0)


@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")
def test_frozen_statistics_stay(either_keras):
    model = model_of(either_keras)
    model.get_layer("norm").trainable = False
    model.get_layer("norm").moving_variance.assign([4.0] * 4)
    pruner = force_tf.PruneAtInit("ntk_sap", sparsity=0.5, steps=2, seed=0)
    pruner.find_masks(model, verbose=0)  # with a variance of zero, gradients would not be finite
    np.testing.assert_array_equal(model.get_layer("norm").moving_variance, [4.0] * 4)


@pytest.mark.parametrize("arguments", [{"epsilon": 0.0}, {"epsilon": float("nan")}, {"rows": 0}])
def test_refuses_settings_that_measure_nothing(arguments):
    with pytest.raises(ValueError, match=r"^Expected .* Received: "):
        force_tf.criteria.NTKSAP(**arguments)


def test_needs_known_shapes():
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="input shapes are fully known"):
        force_tf.PruneAtInit("ntk_sap", sparsity=0.5).find_masks(model, verbose=0)
