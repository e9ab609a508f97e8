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

from force_tf.layers import apply_masks, get_masks, strip_pruning
from helpers.training_forms import (
    assert_kernels,
    assert_pruned,
    assign,
    by_layer_weights,
    by_own_variables,
    data,
    dense_kernels,
    dense_model,
    fit_and_check,
    kernels,
    masked,
    revealing,
    train,
    wrapped,
)

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


def save(model, path):
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)


def read_arrays(path):
    """Returns every array in an HDF5 file."""
    arrays = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return arrays


@pytest.mark.parametrize(
    ("either_keras", "suffix"),
    [("keras", ".keras"), ("keras", ".h5"), ("tf_keras", ".keras"), ("tf_keras", ".h5"), ("tf_keras", "")],
    ids=["keras", "keras_h5", "tf_keras", "tf_keras_h5", "tf_keras_saved_model"],
    indirect=["either_keras"],
)
def test_models_saved_at_any_moment_hold_zeros_and_train_on(either_keras, suffix, tmp_path):
    if either_keras is keras and suffix == ".h5" and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15):
        pytest.skip(f"Keras {keras.__version__} does not find Muon by the name that it writes to .h5 files")

    def checkpoint(name, every):
        return either_keras.callbacks.ModelCheckpoint(str(tmp_path / f"{name}{suffix}"), save_freq=every)

    callbacks = [checkpoint("batch{batch}", 4), checkpoint("epoch{epoch}", "epoch")]
    arguments = {"epochs": 1, "callbacks": callbacks}
    pruned, masks = train(revealing(either_keras), module=either_keras, fit_arguments=arguments)
    trained = kernels(pruned)
    assign(pruned, dense_kernels())
    pruned.save(tmp_path / f"assigned{suffix}")
    files = sorted(tmp_path.iterdir())
    assert [file.stem for file in files] == ["assigned", "batch4", "epoch1"]
    loaded = [either_keras.models.load_model(file) for file in files]
    for file, model in zip(files, loaded):
        assert_pruned(kernels(model), masks, f"in {file.name}")
        assert get_masks(model) == masks
    assert_kernels(loaded[0], masked(dense_kernels(), masks))
    assert_kernels(loaded[-1], trained)
    if either_keras is keras and suffix == ".h5":
        # Keras gives models from `.h5` files, wrapped or not, an optimizer for no variables.
        loaded[-1].compile(revealing(either_keras), loaded[-1].loss)
    fit_and_check(loaded[-1], masks, either_keras)


def test_weight_files_written_at_any_moment_hold_zeros(tmp_path):
    suffix = ".weights.h5"
    checkpoints = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / f"{when}{suffix}"), save_freq=every, save_weights_only=True)
        for when, every in (("batch{batch}", 2), ("epoch{epoch}", "epoch"))
    ]
    pruned, masks = train(revealing(keras), fit_arguments={"epochs": 1, "callbacks": checkpoints})
    assign(pruned, dense_kernels())
    pruned.save_weights(tmp_path / f"assigned{suffix}")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5, files
    for file in files:
        arrays = read_arrays(file)
        for path, mask in masks.items():
            found = [array for array in arrays if array.shape == mask.shape and array.dtype.kind == "f"]
            assert found, f"no array of the shape of {path} in {file.name}"
            assert not any(array[~mask].any() for array in found), f"{path} in {file.name}"


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
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


def test_tensorflow_checkpoints_bring_masks_weights_and_optimizer(either_keras, tmp_path):
    saved, masks = wrapped(either_keras, seed=1)
    fit_and_check(saved, masks, either_keras)
    path = tf.train.Checkpoint(model=saved).save(tmp_path / "checkpoint")
    model, _ = wrapped(either_keras, seed=2)
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model).restore(path).assert_existing_objects_matched()
    assert get_masks(model) == masks
    assert_kernels(model, kernels(saved))
    for restored, variable in zip(model.optimizer.variables, saved.optimizer.variables, strict=True):
        np.testing.assert_array_equal(restored, variable, err_msg=variable.name)
    fit_and_check(model, masks, either_keras)


def by_assignment(pruned, dense, directory):
    assign(pruned, kernels(dense))


def by_checkpoint(pruned, dense, directory):
    path = tf.train.Checkpoint(model=dense).save(directory / "dense")
    tf.train.Checkpoint(model=pruned).restore(path).expect_partial()


@pytest.mark.parametrize("load", [by_layer_weights, by_own_variables, by_assignment, by_checkpoint])
def test_dense_weights_are_masked_when_they_are_loaded(load, tmp_path):
    pruned, masks = wrapped(seed=1)
    fit_and_check(pruned, masks, epochs=1)  # with functions traced before
    dense = dense_model()
    load(pruned, dense, tmp_path)
    expected = masked(kernels(dense), masks)
    assert_kernels(pruned, expected)
    assert get_masks(pruned) == masks
    for path, value in expected.items():
        variable = pruned.get_layer(path.partition("/")[0]).layer.kernel
        np.testing.assert_array_equal(variable.value.read_value(), value)
        np.testing.assert_array_equal(np.asarray(variable), value)
    fit_and_check(pruned, masks, epochs=1)


def test_a_file_of_dense_weights_is_loaded_into_the_stripped_model(either_keras, tmp_path):
    pruned, masks = wrapped(either_keras, seed=1)
    dense = dense_model(either_keras)
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
def test_training_on_weights_assigned_from_outside_ignores_what_is_pruned(use_ema, either_keras):
    models = []  # the function that trains is traced before, and the weights are not read before it runs again
    for values in (lambda masks: dense_kernels(), lambda masks: masked(dense_kernels(), masks)):
        optimizer = either_keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=use_ema, ema_momentum=0.5)
        pruned, masks = wrapped(either_keras, optimizer=optimizer)
        pruned.fit(*data(), epochs=1, verbose=0, shuffle=False)
        assign(pruned, values(masks))
        pruned.fit(*data(), epochs=1, verbose=0, shuffle=False)
        models.append(pruned)
    assert_pruned(kernels(models[0]), masks, "after fit")
    assert_kernels(models[0], kernels(models[1]))


def outputs_of_saved_model(pruned, how, path, x):
    """Saves a model in one of two ways, and returns what every function of the file that computes it makes of `x`."""
    if how == "export":
        pruned.export(path, **({"verbose": False} if isinstance(pruned, keras.Model) else {}))
        loaded = tf.saved_model.load(path)
        return [loaded.serve(x)]
    tf.saved_model.save(pruned, path)
    loaded = tf.saved_model.load(path)
    outputs = list(loaded.signatures["serving_default"](x).values())
    return [*outputs, loaded(x)] if callable(loaded) else outputs


@pytest.mark.parametrize("how", ["export", "saved_model"])
def test_saved_models_compute_with_masked_weights(how, either_keras, tmp_path):
    pruned, masks = wrapped(either_keras)
    assign(pruned, dense_kernels())
    x, _ = data()
    expected = pruned.predict(x, verbose=0)
    assign(pruned, dense_kernels())  # the files are written before the weights are read
    path = str(tmp_path / how)
    for output in outputs_of_saved_model(pruned, how, path, tf.constant(x)):
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    names = [name for name, _ in tf.train.list_variables(f"{path}/variables/variables")]
    values = [np.asarray(tf.train.load_variable(f"{path}/variables/variables", name)) for name in names]
    for of, kernel in masked(dense_kernels(), masks).items():
        found = {name: value for name, value in zip(names, values) if value.shape == kernel.shape}
        assert any(np.array_equal(value, kernel) for value in found.values()), f"{of} is not in the file"
        for name, value in found.items():  # masks are zero there, too
            assert not value[~masks[of]].any(), f"{of} in {name}"


EPOCHS, STOPPED_AFTER = 4, 2


def fit_with_backup(module, directory, *callbacks):
    """Fits a wrapped model that is made anew, from the backup in a directory if there is one."""
    pruned, masks = wrapped(module, optimizer=revealing(module))
    backup = module.callbacks.BackupAndRestore(str(directory))
    pruned.fit(*data(), batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup, *callbacks])
    return pruned, masks


class StoppedError(Exception):
    pass


def raise_error():
    raise StoppedError


def kill_process():
    os.kill(os.getpid(), signal.SIGKILL)


def fit_until(module, directory, end):
    def on_epoch_begin(epoch, logs):
        if epoch == STOPPED_AFTER:
            end()

    fit_with_backup(module, directory, module.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin))


def interrupt_here(module, directory):
    with pytest.raises(StoppedError):
        fit_until(module, directory, raise_error)


def kill_another_process(module, directory):
    name = module.__name__
    code = f"import {name}, layers.test_checkpoints as t; t.fit_until({name}, {str(directory)!r}, t.kill_process)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("either_keras", "interrupt"),
    [
        ("keras", interrupt_here),
        ("tf_keras", interrupt_here),
        pytest.param("keras", kill_another_process, marks=pytest.mark.slow),
    ],
    indirect=["either_keras"],
)
def test_a_run_that_was_killed_resumes_as_if_it_had_not_been(either_keras, interrupt, tmp_path):
    interrupt(either_keras, tmp_path / "backup")
    assert any((tmp_path / "backup").rglob("*")), "no backup was written"
    begun = []
    count = either_keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    resumed, masks = fit_with_backup(either_keras, tmp_path / "backup", count)
    assert begun == list(range(STOPPED_AFTER, EPOCHS))
    uninterrupted, _ = fit_with_backup(either_keras, tmp_path / "other")
    assert get_masks(resumed) == masks
    assert_pruned(kernels(resumed), masks, "after the resumed run")
    for path, kernel in kernels(uninterrupted).items():
        np.testing.assert_allclose(kernels(resumed)[path], kernel, rtol=1e-4, atol=1e-5, err_msg=path)
