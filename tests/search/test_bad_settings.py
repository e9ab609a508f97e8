"""Settings and models that do not fit: one sentence, before any work, that tells what was expected and what came."""

import math
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tf_keras

import force_tf
from helpers.reference import mlp
from helpers.refusal import LOSS, X, Y, assert_one_sentence, refuse

# The settings of a search: refused before there is a model.


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("sparsity", math.nan, ValueError),
        ("sparsity", 1, ValueError),
        ("sparsity", np.float32(1), ValueError),
        ("sparsity", -0.1, ValueError),
        ("sparsity", math.inf, ValueError),
        ("sparsity", True, TypeError),
        ("sparsity", "0.9", TypeError),
        ("method", None, TypeError),
        ("method", force_tf.criteria.SNIP, TypeError),
        ("steps", 0, ValueError),
        ("steps", -3, ValueError),
        ("steps", 1.5, TypeError),
        ("steps", "3", TypeError),
        ("steps", True, TypeError),
        ("batches", 0, ValueError),
        ("batches", 2.0, TypeError),
        ("schedule", "cosine", ValueError),
        ("schedule", 3, TypeError),
        ("scope", "network", ValueError),
        ("scope", None, ValueError),
        ("min_per_layer", -1, ValueError),
        ("min_per_layer", 0.5, TypeError),
        ("granularity", "channels", ValueError),
        ("granularity", "x:y", ValueError),
        ("granularity", "2:4:8", ValueError),
        ("granularity", "-2:4", ValueError),
        ("granularity", "4:2", ValueError),
        ("granularity", "2:2", ValueError),
        ("granularity", "0:4", ValueError),
        ("granularity", (), ValueError),
        ("granularity", (0, 4), ValueError),
        ("granularity", (1, -4), ValueError),
        ("granularity", (1.5,), TypeError),
        ("granularity", ("2", 4), TypeError),
        ("granularity", [True, 4], TypeError),
        ("granularity", 4, TypeError),
        ("granularity", None, TypeError),
        ("revive", "yes", ValueError),
        ("seed", -1, ValueError),
        ("seed", "zero", TypeError),
    ],
)
def test_settings_out_of_range(name, value, error):
    with pytest.raises(error) as caught:
        force_tf.PruneAtInit(**{"method": "snip", name: value})
    assert_one_sentence(caught.value, f"`{name}`", re.escape(repr(value)))


@pytest.mark.parametrize(
    ("criterion", "name", "value", "error"),
    [
        ("EarlyTicket", "inner_steps", 0, ValueError),
        ("EarlyTicket", "inner_steps", 2.5, TypeError),
        ("EarlyTicket", "learning_rate", 0, ValueError),
        ("EarlyTicket", "learning_rate", math.inf, ValueError),
        ("EarlyTicket", "learning_rate", "0.1", TypeError),
        ("EarlyTicket", "momentum", 1, ValueError),
        ("ProsPr", "inner_steps", True, TypeError),
        ("ProsPr", "inner_learning_rate", math.nan, ValueError),
        ("ProsPr", "momentum", -0.1, ValueError),
        ("ProsPr", "first_order", "no", ValueError),
        ("GraSP", "temperature", 0, ValueError),
        ("NTKSAP", "epsilon", -1, ValueError),
        ("NTKSAP", "rows", 1.5, TypeError),
        ("NTKSAP", "redraw", None, ValueError),
        ("Pool", "fraction", 0, ValueError),
        ("Pool", "fraction", 1.01, ValueError),
        ("Pool", "first", "gradient", TypeError),
        ("SignFlips", "power", math.inf, ValueError),
        ("Skeletonization", "decay", 1.0, ValueError),
        ("Skeletonization", "decay", None, TypeError),
    ],
)
def test_settings_of_criteria_out_of_range(criterion, name, value, error):
    with pytest.raises(error) as caught:
        getattr(force_tf.criteria, criterion)(**{name: value})
    assert_one_sentence(caught.value, f"`{name}`", re.escape(f"{name}={value!r}"))


@pytest.mark.parametrize(
    ("criterion", "settings"),
    [
        ("EarlyTicket", {"inner_steps": np.int64(3), "learning_rate": np.float32(0.1), "momentum": 0}),
        ("Pool", {"fraction": 1}),
        ("Skeletonization", {"decay": 0}),
    ],
)
def test_settings_of_criteria_at_the_ends_of_their_ranges(criterion, settings):
    made = getattr(force_tf.criteria, criterion)(**settings)
    assert {name: getattr(made, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("method", "fource", "force"),
        ("method", "iter-snip", "iter_snip"),
        ("method", "SynFlow", "synflow"),
        ("schedule", "exponental", "exponential"),
        ("scope", "globl", "global"),
    ],
)
def test_unknown_names_get_the_nearest(name, value, nearest):
    with pytest.raises(ValueError, match=f"Did you mean '{nearest}'") as caught:
        force_tf.PruneAtInit(**{"method": "snip", name: value})
    assert_one_sentence(caught.value, f"`{name}`", value)


def test_names_unlike_any_get_the_list_alone():
    with pytest.raises(ValueError, match=r"'magnitude', 'random'\. Received: .*'xyz'$"):
        force_tf.PruneAtInit("xyz")


@pytest.mark.parametrize(
    ("schedule", "error", "received"),
    [
        (lambda step, steps, density: math.nan, ValueError, "nan at step 1"),
        (lambda step, steps, density: 1.2, ValueError, "1.2 at step 1"),
        (lambda step, steps, density: 0.7, ValueError, "0.7 at the last step"),
        (lambda step, steps, density: None, TypeError, "None at step 1"),
    ],
)
def test_schedules_that_do_not_end_at_the_density(schedule, error, received):
    with pytest.raises(error) as caught:
        force_tf.PruneAtInit("snip", sparsity=0.5, steps=3, schedule=schedule)
    assert_one_sentence(caught.value, "the schedule", received)


def test_a_schedule_that_rises_needs_revive():
    def up_and_down(step, steps, density):
        return [0.4, 0.8, density][step - 1]

    refuse(ValueError, "never rises.*revive=True", "up_and_down", steps=3, schedule=up_and_down)
    pruner = force_tf.PruneAtInit("force", sparsity=0.5, steps=3, schedule=up_and_down)
    assert pruner.find_masks(mlp(), (X, Y), LOSS, verbose=0).kept == 21
    assert [row["kept"] for row in pruner.history] == [17, 34, 21]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"verbose": 3}, ValueError),
        ({"verbose": "loud"}, ValueError),
    ],
)
def test_arguments_of_find_masks_out_of_range(options, error):
    with pytest.raises(error) as caught:
        force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(mlp(), (X, Y), LOSS, **options)
    ((name, value),) = options.items()
    assert_one_sentence(caught.value, f"`{name}`", re.escape(repr(value)))


# The model.


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def frozen():
    model = mlp()
    model.trainable = False
    return model


@pytest.mark.parametrize("model", [keras.Sequential([keras.layers.Dense(3)]), Subclassed()])
def test_a_model_that_is_not_built(model):
    refuse(ValueError, "a model that is built.*Input", f"unbuilt model '{model.name}'", model=model)


@pytest.mark.parametrize("built", [False, True], ids=["not_built", "built"])
@pytest.mark.parametrize("module", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_model_that_only_trains_others(module, built):
    class GAN(module.Model):
        def __init__(self):
            super().__init__(name="gan")
            self.discriminator = module.Sequential([module.Input((4,)), module.layers.Dense(1)])
            self.generator = module.Sequential([module.Input((3,)), module.layers.Dense(4)])

        def train_step(self, data):
            return {}

    gan = GAN()
    gan.built = built
    expected = "can be called; .*the models in it, each by itself: `model.discriminator` or `model.generator`"
    refuse(ValueError, expected, "'gan' of class GAN, which has no `call`", model=gan)
    assert force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(gan.discriminator, verbose=0).kept == 2


@pytest.mark.parametrize(
    "model", ["model.keras", keras.layers.Dense(3), mlp, 3], ids=["path", "layer", "function", "int"]
)
def test_what_is_no_keras_model(model):
    refuse(TypeError, "a model of keras or tf_keras", type(model).__name__, model=model)


def test_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refuse(ValueError, "the TensorFlow backend.*KERAS_BACKEND=tensorflow", "'jax' backend")


def test_models_of_both_kerases_in_one_process():
    code = """
        import warnings

        import force_tf
        import keras
        import tf_keras

        warnings.simplefilter("error")
        pruner = force_tf.PruneAtInit("magnitude", sparsity=0.5)
        for module in (tf_keras, keras):
            model = module.Sequential([module.Input((4,)), module.layers.Dense(3)])
            print(pruner.find_masks(model, verbose=0).kept)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["6", "6"]


def test_a_model_that_is_pruned_already():
    pruner = force_tf.PruneAtInit("snip", sparsity=0.5)
    pruned = pruner.prune(mlp(), (X, Y), LOSS, verbose=0)
    refuse(ValueError, "without masks.*strip_pruning", "pruned already", model=pruned)
    stripped = force_tf.strip_pruning(pruned)
    assert pruner.find_masks(stripped, (X, Y), LOSS, verbose=0).kept == 21, "what the message advises"


@pytest.mark.parametrize(
    ("build", "received"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")]), "bn: Batch"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]), "without weights"),
        (frozen, "dense_0/kernel: frozen; dense_1/kernel: frozen"),
    ],
)
def test_a_model_without_prunable_weights(build, received):
    with pytest.raises(
        ValueError, match=f"^Expected a model with at least one prunable weight.*Received: .*{received}"
    ):
        force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(build(), (X, Y), LOSS)


@pytest.mark.parametrize(
    ("layers", "error", "received"),
    [
        ("conv", ValueError, "'conv', which matches none"),
        (["dense_0", "dense_7"], ValueError, "'dense_7', which matches none"),
        ("dense", ValueError, "'dense', which matches none"),  # matched in full
        ("dense_(", ValueError, r"'dense_\('"),
        ([], ValueError, "an empty list"),
        (3, TypeError, "layers=3"),
        ([3], TypeError, r"layers=\[3\]"),
        (lambda layer: False, ValueError, "not selected by `layers`"),
    ],
)
def test_layers_that_match_nothing(layers, error, received):
    refuse(error, "", received, layers=layers)


def test_a_layer_that_is_almost_named_is_suggested():
    refuse(ValueError, "such as dense_1", "'dens_1'", layers="dens_1")


@pytest.mark.parametrize("sparsity", [0.99, 0.9999999])
def test_a_sparsity_that_leaves_nothing(sparsity):
    refuse(ValueError, "at least one of the 42", f"sparsity={sparsity}", sparsity=sparsity)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_floor_that_needs_more_than_is_kept(scope):
    refuse(ValueError, "that 21 .* it needs 30", "min_per_layer=15", min_per_layer=15, scope=scope)


@pytest.mark.parametrize("call", ["find_masks", "prune"])
@pytest.mark.parametrize(
    "targets",
    [np.zeros(4), tf.zeros(4), pd.Series(np.zeros(4)), [0, 1, 1, 0], [[0.0], [1.0]], {"head": np.zeros(4)}],
    ids=["array", "tensor", "series", "list", "rows", "by_name"],
)
def test_targets_beside_the_inputs_are_told_to_come_in_a_tuple(call, targets):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(TypeError, match=r"^Expected inputs and targets in one tuple, as in `prune\(model, \(x, y\)\)`"):
        getattr(force_tf.PruneAtInit("snip"), call)(model, np.zeros((4, 3)), targets)


def test_revive_is_true_or_false():
    assert force_tf.PruneAtInit("snip", revive=1).revive is True
    assert force_tf.PruneAtInit("force", revive=0).revive is False
    with pytest.raises(ValueError, match=r"Expected `revive`.*Received"):
        force_tf.PruneAtInit("force", revive=2)
