"""Pruned weights stay exactly zero: under every optimizer, in memory and in the files that training writes."""

import h5py
import keras
import numpy as np
import pytest

from force_tf.layers import apply_masks, get_masks

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


def small_model(regularizer=None):
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3, name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", name="hidden", kernel_constraint=keras.constraints.MaxNorm(2.0)),
            keras.layers.Dense(3, name="logits", kernel_regularizer=regularizer),
        ]
    )


def random_masks(model, density=0.4):
    rng = np.random.default_rng(0)
    return {
        f"{layer.name}/kernel": rng.random(layer.kernel.shape) < density
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def data(samples=48):
    rng = np.random.default_rng(1)
    return rng.normal(size=(samples, 6, 6, 1)).astype("float32"), rng.integers(3, size=samples)


def kernels(pruned):
    return {f"{name}/kernel": pruned.get_layer(name).layer.kernel.numpy() for name in ("conv", "hidden", "logits")}


def assert_pruned(values, masks, where):
    for path, mask in masks.items():
        revived = np.count_nonzero(values[path][~mask])
        assert revived == 0, f"{revived} of {np.count_nonzero(~mask)} pruned weights of {path} are not zero {where}"


def train(optimizer, epochs=2, callbacks=(), regularizer=None, **compile_arguments):
    """Fits a wrapped model, checks the weights after every batch, and returns it with its masks."""
    model = small_model(regularizer)
    masks = random_masks(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **compile_arguments)
    pruned = apply_masks(model, masks)
    before = kernels(pruned)
    check = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: assert_pruned(kernels(pruned), masks, f"after batch {batch}"),
        on_epoch_end=lambda epoch, logs: assert_pruned(kernels(pruned), masks, f"after epoch {epoch}"),
    )
    pruned.fit(*data(), batch_size=8, epochs=epochs, verbose=0, callbacks=[*callbacks, check])
    after = kernels(pruned)
    assert_pruned(after, masks, "after fit")
    for path, mask in masks.items():
        assert np.isfinite(after[path]).all(), path
        assert (after[path] != before[path])[mask].any(), f"no kept weight of {path} has moved"
    return pruned, masks


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
    train(OPTIMIZERS[name](), epochs=1, **arguments)


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
    train(OPTIMIZERS[name](use_ema=True, ema_momentum=0.5), callbacks=[swap])


def test_regularizers_that_pull_zeros_do_not_revive_pruned_weights():
    train(OPTIMIZERS["adam"](), regularizer=keras.regularizers.OrthogonalRegularizer(0.1))


def test_averages_of_an_optimizer_inside_another():
    train(optimizers.LossScaleOptimizer(optimizers.Muon(0.01, use_ema=True, ema_momentum=0.5), initial_scale=8.0))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        pruned, _ = train(OPTIMIZERS["muon"](use_ema=True))
    finally:
        keras.config.set_dtype_policy("float32")
    assert pruned.get_layer("hidden").layer.kernel.dtype == "float32"
    assert isinstance(pruned.optimizer, optimizers.LossScaleOptimizer) == (policy == "mixed_float16")


def read_arrays(path):
    """Returns every array in an HDF5 file."""
    arrays = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return arrays


def test_files_written_at_any_moment_hold_zeros(tmp_path):
    every_batch = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{batch}.weights.h5"), save_freq=2, save_weights_only=True
    )
    every_epoch = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    pruned, masks = train(OPTIMIZERS["muon"](), epochs=1, callbacks=[every_batch, every_epoch])
    # Weights that are assigned between steps are projected when they are written.
    pruned.get_layer("hidden").layer.kernel.assign(np.ones((48, 8)))
    pruned.save_weights(tmp_path / "assigned.weights.h5")
    pruned.save(tmp_path / "assigned.keras")

    files = sorted(tmp_path.glob("*.weights.h5"))
    assert len(files) == 4, files
    for file in files:
        arrays = read_arrays(file)
        for path, mask in masks.items():
            found = [array for array in arrays if array.shape == mask.shape and array.dtype.kind == "f"]
            assert found, f"no array of the shape of {path} in {file.name}"
            assert not any(array[~mask].any() for array in found), f"{path} in {file.name}"
    for file in sorted(tmp_path.glob("*.keras")):
        loaded = keras.saving.load_model(file)
        assert_pruned(kernels(loaded), masks, f"in {file.name}")
        assert get_masks(loaded) == masks


def test_learns_on_kept_weights_alone():
    x, y = data()
    model = small_model()
    model.compile(OPTIMIZERS["adam"](), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned = apply_masks(model, random_masks(model))
    losses = pruned.fit(x, y, batch_size=8, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0], losses
