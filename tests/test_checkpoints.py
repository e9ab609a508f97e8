"""Files and checkpoints of wrapped models: they hold masks and zeros, and whatever is loaded, masks keep to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from training_forms import assert_pruned, compiled_model, data, fit_and_check, kernels, random_masks, train

from force_tf.layers import apply_masks, get_masks, strip_pruning

FORMATS = [".keras", ".weights.h5", ".h5"]


def muon():
    return keras.optimizers.Muon(0.01)


def wrapped(seed=0, optimizer="adam"):
    """Returns a wrapped model with kernels of its own, and its masks."""
    keras.utils.set_random_seed(seed)
    model = compiled_model(optimizer)
    masks = random_masks(model, seed=seed)
    return apply_masks(model, masks), masks


def dense_kernels(seed=7):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=kernel.shape) for path, kernel in kernels(compiled_model()).items()}


def assign(pruned, values):
    for path, value in values.items():
        pruned.get_layer(path.partition("/")[0]).layer.kernel.assign(value)


def masked(values, masks):
    return {path: np.where(masks[path], value, 0).astype("float32") for path, value in values.items()}


def assert_kernels(model, expected, where=""):
    found = kernels(model)
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=f"{path} {where}")


def save(model, path):
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)


def read_arrays(path):
    """Returns every array in an HDF5 file."""
    arrays = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return arrays


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_written_at_any_moment_hold_zeros(suffix, tmp_path):
    only_weights = suffix == ".weights.h5"
    checkpoints = [
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / f"{when}{suffix}"), save_freq=every, save_weights_only=only_weights
        )
        for when, every in (("batch{batch}", 2), ("epoch{epoch}", "epoch"))
    ]
    pruned, masks = train(muon(), fit_arguments={"epochs": 1, "callbacks": checkpoints})
    assign(pruned, dense_kernels())
    pruned.save_weights(tmp_path / "assigned.weights.h5") if only_weights else pruned.save(
        tmp_path / f"assigned{suffix}"
    )

    files = sorted(tmp_path.iterdir())
    assert len(files) == 5, files
    for file in files:
        if only_weights:
            arrays = read_arrays(file)
            for path, mask in masks.items():
                found = [array for array in arrays if array.shape == mask.shape and array.dtype.kind == "f"]
                assert found, f"no array of the shape of {path} in {file.name}"
                assert not any(array[~mask].any() for array in found), f"{path} in {file.name}"
        else:
            loaded = keras.saving.load_model(file)
            assert_pruned(kernels(loaded), masks, f"in {file.name}")
            assert get_masks(loaded) == masks


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_loaded_model_trains_on(suffix, tmp_path):
    pruned, masks = train(muon())
    pruned.save(tmp_path / f"model{suffix}")
    loaded = keras.saving.load_model(tmp_path / f"model{suffix}")
    assert_kernels(loaded, kernels(pruned))
    if suffix == ".h5":  # Keras gives models from `.h5` files, wrapped or not, an optimizer for no variables
        loaded.compile(muon(), loaded.loss)
    fit_and_check(loaded, masks)


@pytest.mark.parametrize("suffix", FORMATS)
def test_loaded_weights_bring_their_masks_whatever_was_there(suffix, tmp_path):
    saved, masks = wrapped(seed=1)
    path = tmp_path / f"saved{suffix}"
    save(saved, path)
    model, _ = wrapped(seed=2)
    model.load_weights(path)
    assert get_masks(model) == masks
    assert_kernels(model, kernels(saved))


def test_weight_lists_bring_their_masks():
    saved, masks = wrapped(seed=1)
    model, _ = wrapped(seed=2)
    model.set_weights(saved.get_weights())
    assert get_masks(model) == masks
    assert_kernels(model, kernels(saved))


def test_tensorflow_checkpoints_bring_masks_weights_and_optimizer(tmp_path):
    saved, masks = wrapped(seed=1)
    fit_and_check(saved, masks)
    path = tf.train.Checkpoint(model=saved).save(tmp_path / "checkpoint")
    model, _ = wrapped(seed=2)
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model).restore(path).assert_existing_objects_matched()
    assert get_masks(model) == masks
    assert_kernels(model, kernels(saved))
    for restored, variable in zip(model.optimizer.variables, saved.optimizer.variables, strict=True):
        np.testing.assert_array_equal(restored, variable, err_msg=variable.path)
    fit_and_check(model, masks)


def by_layer_weights(pruned, dense, tmp_path):
    for layer in dense.layers:
        wrapper = pruned.get_layer(layer.name)
        getattr(wrapper, "layer", wrapper).set_weights(layer.get_weights())


def by_own_variables(pruned, dense, tmp_path):
    for layer in dense.layers:
        store = {}
        layer.save_own_variables(store)
        wrapper = pruned.get_layer(layer.name)
        getattr(wrapper, "layer", wrapper).load_own_variables(store)


def by_assignment(pruned, dense, tmp_path):
    assign(pruned, kernels(dense))


def by_checkpoint(pruned, dense, tmp_path):
    path = tf.train.Checkpoint(model=dense).save(tmp_path / "dense")
    tf.train.Checkpoint(model=pruned).restore(path).expect_partial()


@pytest.mark.parametrize("load", [by_layer_weights, by_own_variables, by_assignment, by_checkpoint])
def test_dense_weights_are_masked_when_they_are_loaded(load, tmp_path):
    pruned, masks = wrapped(seed=1)
    fit_and_check(pruned, masks, epochs=1)  # with functions traced before
    dense = compiled_model()
    load(pruned, dense, tmp_path)
    expected = masked(kernels(dense), masks)
    assert_kernels(pruned, expected)
    assert get_masks(pruned) == masks
    for path, value in expected.items():
        variable = pruned.get_layer(path.partition("/")[0]).layer.kernel
        np.testing.assert_array_equal(variable.value.read_value(), value)
        np.testing.assert_array_equal(np.asarray(variable), value)
    fit_and_check(pruned, masks, epochs=1)


def test_a_file_of_dense_weights_is_loaded_into_the_stripped_model(tmp_path):
    pruned, masks = wrapped(seed=1)
    dense = compiled_model()
    dense.save_weights(tmp_path / "dense.weights.h5")
    before = kernels(pruned)
    with pytest.raises(ValueError, match=r"strip_pruning\(model\)(.|\n)*Received: none for 'conv'"):
        pruned.load_weights(tmp_path / "dense.weights.h5")
    assert_kernels(pruned, before)

    plain = strip_pruning(pruned)
    plain.load_weights(tmp_path / "dense.weights.h5")
    loaded = apply_masks(plain, get_masks(pruned))
    assert get_masks(loaded) == masks
    assert_kernels(loaded, masked(kernels(dense), masks))


@pytest.mark.parametrize("use_ema", [False, True])
def test_training_on_weights_assigned_from_outside_ignores_what_is_pruned(use_ema):
    models = []  # the function that trains is traced before, and the weights are not read before it runs again
    for values in (lambda masks: dense_kernels(), lambda masks: masked(dense_kernels(), masks)):
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=use_ema, ema_momentum=0.5)
        pruned, masks = wrapped(optimizer=optimizer)
        pruned.fit(*data(), epochs=1, verbose=0, shuffle=False)
        assign(pruned, values(masks))
        pruned.fit(*data(), epochs=1, verbose=0, shuffle=False)
        models.append(pruned)
    assert_pruned(kernels(models[0]), masks, "after fit")
    assert_kernels(models[0], kernels(models[1]))


@pytest.mark.parametrize("how", ["export", "saved_model"])
def test_saved_models_compute_with_masked_weights(how, tmp_path):
    pruned, masks = wrapped()
    assign(pruned, dense_kernels())
    x, _ = data()
    expected = pruned.predict(x, verbose=0)
    path = str(tmp_path / how)
    if how == "export":
        pruned.export(path, verbose=False)
        loaded = tf.saved_model.load(path)
        serve = loaded.serve
    else:
        tf.saved_model.save(pruned, path)
        loaded = tf.saved_model.load(path)
        serve = loaded.signatures["serving_default"]
    output = serve(tf.constant(x))
    output = next(iter(output.values())) if isinstance(output, dict) else output
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    for name in (name for name, _ in tf.train.list_variables(f"{path}/variables/variables")):
        value = np.asarray(tf.train.load_variable(f"{path}/variables/variables", name))
        for of, mask in masks.items():
            if value.dtype == np.float32 and value.shape == mask.shape:
                assert not value[~mask].any(), f"{of} in {name}"


EPOCHS, KILLED_AFTER = 4, 2


def fit_with_backup(directory, *callbacks):
    """Fits a wrapped model that is made anew, from the backup in a directory if there is one."""
    pruned, masks = wrapped(optimizer=muon())
    backup = keras.callbacks.BackupAndRestore(str(directory))
    pruned.fit(*data(), batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup, *callbacks])
    return pruned, masks


class KilledError(Exception):
    pass


def raise_error():
    raise KilledError


def kill_process():
    os.kill(os.getpid(), signal.SIGKILL)


def fit_until(directory, end):
    def on_epoch_begin(epoch, logs):
        if epoch == KILLED_AFTER:
            end()

    fit_with_backup(directory, keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin))


def interrupt_here(directory):
    with pytest.raises(KilledError):
        fit_until(directory, raise_error)


def kill_another_process(directory):
    code = f"import test_checkpoints as t; t.fit_until({str(directory)!r}, t.kill_process)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("interrupt", [interrupt_here, pytest.param(kill_another_process, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_resumes_as_if_it_had_not_been(interrupt, tmp_path):
    interrupt(tmp_path / "backup")
    assert any((tmp_path / "backup").rglob("*")), "no backup was written"
    begun = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    resumed, masks = fit_with_backup(tmp_path / "backup", count)
    assert begun == list(range(KILLED_AFTER, EPOCHS))
    uninterrupted, _ = fit_with_backup(tmp_path / "other")
    assert get_masks(resumed) == masks
    assert_pruned(kernels(resumed), masks, "after the resumed run")
    for path, kernel in kernels(uninterrupted).items():
        np.testing.assert_allclose(kernels(resumed)[path], kernel, rtol=1e-4, atol=1e-5, err_msg=path)
