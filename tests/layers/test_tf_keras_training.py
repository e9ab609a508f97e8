"""Pruned weights of tf_keras models stay exactly zero under every kind of optimizer and in every way to train."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from force_tf.layers import apply_masks
from force_tf.layers.tf_keras import MaskedLayer
from helpers.training_forms import compiled_model, data, dtype_policy, fit_and_check, random_masks, train

optimizers, legacy = tf_keras.optimizers, tf_keras.optimizers.legacy
OPTIMIZERS = {
    "sgd_momentum": lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adamw_clipnorm": lambda: optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.1),
    "global_clipnorm": lambda: optimizers.Adam(0.01, global_clipnorm=0.1),
    "averages": lambda: optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "lion": lambda: optimizers.Lion(0.01),
    "ftrl": lambda: optimizers.Ftrl(0.01),
    "legacy_sgd": lambda: legacy.SGD(0.05, momentum=0.9),
    "legacy_adam": lambda: legacy.Adam(0.01),
}
# They keep state as others of the list do.
SLOW = {"global_clipnorm", "lion", "ftrl"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OPTIMIZERS]
)
def test_pruned_weights_stay_zero_under(name):
    train(OPTIMIZERS[name](), module=tf_keras, fit_arguments={"epochs": 1})


@pytest.mark.parametrize(
    "arguments",
    [{"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_pruned_weights_stay_zero_when_compiled_with(arguments):
    train("adam", module=tf_keras, fit_arguments={"epochs": 1}, **arguments)


@pytest.mark.parametrize("family", [optimizers, legacy], ids=["new", "legacy"])
def test_mixed_precision_with_loss_scaling(family):
    with dtype_policy("mixed_float16", tf_keras):
        pruned, _ = train(family.Adam(0.01), module=tf_keras, fit_arguments={"epochs": 1})
    assert isinstance(pruned.optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
    assert pruned.get_layer("hidden").compute_dtype == "float16"
    assert pruned.get_layer("hidden").masked_weights[0].mask.dtype == tf.float32


def test_mixed_precision_without_loss_scaling():
    with dtype_policy("mixed_bfloat16", tf_keras):
        pruned, _ = train(optimizers.Adam(0.01, use_ema=True), module=tf_keras, fit_arguments={"epochs": 1})
    assert pruned.get_layer("hidden").compute_dtype == "bfloat16"


def test_momenta_from_before_do_not_revive_what_is_pruned_later():
    model = compiled_model(optimizers.SGD(0.05, momentum=0.9), tf_keras)
    masks = random_masks(model)
    pruned = apply_masks(model, {path: np.ones_like(mask) for path, mask in masks.items()})
    pruned.fit(*data(), batch_size=8, verbose=0)
    for path, mask in masks.items():
        pruned.get_layer(path.partition("/")[0]).set_masks({"kernel": mask})
    fit_and_check(pruned, masks, tf_keras, epochs=1)


def test_the_users_constraint_and_regularizer_are_kept():
    layer = tf_keras.layers.Dense(2, kernel_constraint="non_neg", kernel_regularizer=tf_keras.regularizers.L2(0.5))
    before = layer.get_config()
    wrapper = MaskedLayer(layer)
    wrapper.build((None, 3))
    wrapper.set_masks({"kernel": [[1, 0], [1, 0], [1, 0]]})
    assert layer.get_config() == before
    layer.kernel.assign([[-1.0, -1.0], [2.0, 2.0], [3.0, 3.0]])
    assert float(sum(wrapper.losses)) == 0.5 * (1 + 4 + 9)
    np.testing.assert_array_equal(layer.kernel.constraint(layer.kernel), [[0, 0], [2, 0], [3, 0]])
