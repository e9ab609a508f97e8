"""Pruned weights stay exactly zero in memory: under every optimizer, and in every way to train."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.layers import apply_masks
from helpers.training_forms import (
    assert_pruned,
    compiled_model,
    data,
    dtype_policy,
    fit_and_check,
    kernels,
    random_masks,
    train,
)

optimizers = keras.optimizers
OPTIMIZERS = {
    "sgd_momentum": lambda **kw: optimizers.SGD(0.05, momentum=0.9, nesterov=True, **kw),
    "sgd_weight_decay": lambda **kw: optimizers.SGD(0.05, weight_decay=5e-4, **kw),
    "adam": lambda **kw: optimizers.Adam(0.01, **kw),
    "adamw": lambda **kw: optimizers.AdamW(0.01, weight_decay=0.1, **kw),
    "clipnorm": lambda **kw: optimizers.AdamW(0.01, clipnorm=0.1, **kw),
    "global_clipnorm": lambda **kw: optimizers.Adam(0.01, global_clipnorm=0.1, **kw),
    "lion": lambda **kw: optimizers.Lion(0.01, **kw),
    "muon": lambda **kw: optimizers.Muon(0.01, **kw),
    "rmsprop": lambda **kw: optimizers.RMSprop(0.01, centered=True, momentum=0.5, **kw),
    "ftrl": lambda **kw: optimizers.Ftrl(0.01, **kw),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_zero_under(name):
    train(OPTIMIZERS[name]())


@pytest.mark.parametrize("name", ["adam", "muon"])
@pytest.mark.parametrize(
    "arguments",
    [{"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_pruned_weights_stay_zero_when_compiled_with(name, arguments):
    train(OPTIMIZERS[name](), fit_arguments={"epochs": 1}, **arguments)


@pytest.mark.parametrize("name", ["sgd_momentum", "muon"])
def test_pruned_weights_stay_zero_with_gradient_accumulation(name):
    train(OPTIMIZERS[name](gradient_accumulation_steps=2))


@pytest.mark.parametrize("name", ["adam", "muon"])
@pytest.mark.parametrize("overwrite", [None, 2])
def test_moving_averages_are_zero_where_weights_are_pruned(name, overwrite):
    optimizer = OPTIMIZERS[name](use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=overwrite)
    train(optimizer)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_swapped_averages_are_zero_where_weights_are_pruned(name):
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    train(OPTIMIZERS[name](use_ema=True, ema_momentum=0.5), fit_arguments={"callbacks": [swap]})


def test_regularizers_that_pull_zeros_do_not_revive_pruned_weights():
    train(OPTIMIZERS["adam"](), regularizer=keras.regularizers.OrthogonalRegularizer(0.1))


def test_averages_of_an_optimizer_inside_another():
    train(optimizers.LossScaleOptimizer(optimizers.Muon(0.01, use_ema=True, ema_momentum=0.5), initial_scale=8.0))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    with dtype_policy(policy):
        pruned, _ = train(OPTIMIZERS["muon"](use_ema=True))
    assert pruned.get_layer("hidden").layer.kernel.dtype == "float32"
    assert isinstance(pruned.optimizer, optimizers.LossScaleOptimizer) == (policy == "mixed_float16")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_search_in_mixed_precision_finds_the_masks_of_float32_up_to_rounding(policy):
    found = []
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(0)
        with dtype_policy(dtype):
            model = compiled_model()
        found.append(force_tf.PruneAtInit("snip", sparsity=0.8).find_masks(model, data(), verbose=0))
    agreement = found[0].intersection_over_union(found[1])
    assert agreement > 0.8, agreement  # 0.11 by chance


def test_optimizer_swapped_without_compiling():
    pruned, masks = train(OPTIMIZERS["adam"]())
    pruned.optimizer = OPTIMIZERS["ftrl"]()
    pruned.make_train_function(force=True)
    fit_and_check(pruned, masks)


# Both Kerases from here on.


def revealing(module):
    """Returns an optimizer that moves weights without a gradient, and averages them."""
    if module is keras:
        return OPTIMIZERS["muon"]()
    return module.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5)


FIT_ARGUMENTS = {
    "class_weight": {"class_weight": {0: 1.0, 1: 5.0, 2: 0.0}},
    "sample_weight": {"sample_weight": np.linspace(0, 2, 48)},
    "validation_split": {"validation_split": 0.25},
}


@pytest.mark.parametrize("name", FIT_ARGUMENTS)
def test_pruned_weights_stay_zero_when_fitted_with(name, either_keras):
    train(revealing(either_keras), module=either_keras, fit_arguments={"epochs": 1, **FIT_ARGUMENTS[name]})


def test_early_stopping_restores_zeros(either_keras):
    stop = either_keras.callbacks.EarlyStopping("loss", mode="max", patience=1, restore_best_weights=True)
    arguments = {"epochs": 4, "callbacks": [stop]}
    train(revealing(either_keras), module=either_keras, fit_arguments=arguments)
    assert stop.stopped_epoch > 0


def test_frozen_layers_stay_as_they_are_and_pruned_ones_train(either_keras):
    model = compiled_model(module=either_keras)
    model.get_layer("conv").trainable = False
    masks = random_masks(model)
    del masks["conv/kernel"]
    pruned = apply_masks(model, masks)
    fit_and_check(pruned, masks, either_keras)
    np.testing.assert_array_equal(kernels(pruned)["conv/kernel"], kernels(model)["conv/kernel"])
    pruned.get_layer("conv").trainable = True  # fine-tuning: everything trains
    pruned.get_layer("hidden").trainable = False
    before = kernels(pruned)
    pruned.compile(revealing(either_keras), pruned.loss)
    fit_and_check(pruned, masks, either_keras)
    after = kernels(pruned)
    assert (after["conv/kernel"] != before["conv/kernel"]).any()
    np.testing.assert_array_equal(after["hidden/kernel"], before["hidden/kernel"])


def test_compiled_again_with_another_optimizer(either_keras):
    pruned, masks = train("adam", module=either_keras)
    pruned.compile(revealing(either_keras), pruned.loss, metrics=["accuracy"])
    fit_and_check(pruned, masks, either_keras)


def test_learns_on_kept_weights_alone(either_keras):
    x, y = data()
    model = compiled_model(either_keras.optimizers.Adam(0.01), either_keras)
    pruned = apply_masks(model, random_masks(model))
    losses = pruned.fit(x, y, batch_size=8, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0], losses


def test_pruned_weights_stay_zero_in_a_training_loop_of_ones_own(either_keras):
    model = compiled_model(module=either_keras)
    masks = random_masks(model)
    pruned, optimizer = apply_masks(model, masks), either_keras.optimizers.AdamW(0.01, weight_decay=0.1)
    x, y = data()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(pruned.loss(y, pruned(x, training=True)))
        variables = pruned.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    losses = [float(step()) for _ in range(10)]
    assert losses[-1] < losses[0], losses
    assert_pruned(kernels(pruned), masks, "after ten steps")
