"""Files and checkpoints of wrapped tf_keras models: they hold masks and zeros, and masks keep to whatever is loaded."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from training_forms import (
    assert_pruned,
    compiled_model,
    data,
    dtype_policy,
    fit_and_check,
    kernels,
    random_masks,
    train,
)

from force_tf.layers import apply_masks, get_masks

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
MODELS = [".keras", ".h5", ""]  # "" for a SavedModel
WEIGHTS = [".weights.h5", ".h5", ""]  # "" for a checkpoint of TensorFlow


def adam():
    return tf_keras.optimizers.AdamW(0.01, weight_decay=0.1)


def wrapped(seed=0, optimizer="adam"):
    """Returns a wrapped model with kernels of its own, and its masks."""
    tf_keras.utils.set_random_seed(seed)
    model = compiled_model(optimizer, tf_keras)
    masks = random_masks(model, seed=seed)
    return apply_masks(model, masks), masks


def dense_model(seed=7):
    tf_keras.utils.set_random_seed(seed)
    return compiled_model(module=tf_keras)


def assign(pruned, values):
    for path, value in values.items():
        pruned.get_layer(path.partition("/")[0]).layer.kernel.assign(value)


def masked(values, masks):
    return {path: np.where(masks[path], value, 0).astype("float32") for path, value in values.items()}


def assert_kernels(model, expected):
    found = kernels(model)
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("suffix", MODELS, ids=["keras", "h5", "saved_model"])
def test_models_saved_at_any_moment_hold_zeros_and_train_on(suffix, tmp_path):
    def checkpoint(name, every):
        return tf_keras.callbacks.ModelCheckpoint(str(tmp_path / f"{name}{suffix}"), save_freq=every)

    callbacks = [checkpoint("batch{batch}", 4), checkpoint("epoch{epoch}", "epoch")]
    pruned, masks = train(adam(), module=tf_keras, fit_arguments={"epochs": 1, "callbacks": callbacks})
    assign(pruned, kernels(dense_model()))
    pruned.save(tmp_path / f"assigned{suffix}")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3, files
    for file in files:
        loaded = tf_keras.models.load_model(file)
        assert_pruned(kernels(loaded), masks, f"in {file.name}")
        assert get_masks(loaded) == masks
    assert_kernels(tf_keras.models.load_model(files[0]), masked(kernels(dense_model()), masks))
    fit_and_check(loaded, masks, tf_keras, epochs=1)


@pytest.mark.parametrize("suffix", WEIGHTS, ids=["weights_h5", "h5", "checkpoint"])
def test_weight_files_bring_their_masks_whatever_was_there(suffix, tmp_path):
    path = str(tmp_path / f"weights{suffix}")
    saved, masks = wrapped(seed=1)
    save = tf_keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=4)
    fit_and_check(saved, masks, tf_keras, epochs=1, callbacks=[save])
    model, _ = wrapped(seed=2)
    model.load_weights(path)
    assert get_masks(model) == masks
    assert_pruned(kernels(model), masks, "after loading")
    saved.save_weights(path)
    model.load_weights(path)
    assert_kernels(model, kernels(saved))


def test_tensorflow_checkpoints_bring_masks_weights_and_optimizer(tmp_path):
    saved, masks = wrapped(seed=1)
    fit_and_check(saved, masks, tf_keras, epochs=1)
    path = tf.train.Checkpoint(model=saved, optimizer=saved.optimizer).save(tmp_path / "checkpoint")
    model, _ = wrapped(seed=2)
    model.optimizer.build(model.trainable_variables)
    restored = tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(path)
    restored.assert_existing_objects_matched()
    assert get_masks(model) == masks
    assert_kernels(model, kernels(saved))
    for new, old in zip(model.optimizer.variables, saved.optimizer.variables, strict=True):
        np.testing.assert_array_equal(new, old, err_msg=old.name)
    fit_and_check(model, masks, tf_keras, epochs=1)


def layers_of(pruned, dense):
    for layer in dense.layers:
        wrapper = pruned.get_layer(layer.name)
        yield layer, getattr(wrapper, "layer", wrapper)


def by_layer_weights(pruned, dense, tmp_path):
    for layer, inner in layers_of(pruned, dense):
        inner.set_weights(layer.get_weights())


def by_own_variables(pruned, dense, tmp_path):
    for layer, inner in layers_of(pruned, dense):
        store = {}
        layer.save_own_variables(store)
        inner.load_own_variables(store)


def by_assignment(pruned, dense, tmp_path):
    for layer, inner in layers_of(pruned, dense):
        if hasattr(layer, "kernel"):
            inner.kernel.assign(layer.kernel)


def by_addition(pruned, dense, tmp_path):
    for path, value in kernels(dense).items():
        kernel = pruned.get_layer(path.partition("/")[0]).layer.kernel
        kernel.assign(np.zeros_like(value))
        kernel.assign_add(value)


def by_traced_function(pruned, dense, tmp_path):
    assign_all = tf.function(by_assignment)
    assign_all(pruned, dense, tmp_path)
    assign_all(pruned, dense, tmp_path)  # only the first call runs Python code


def by_checkpoint_of_layers(pruned, dense, tmp_path):
    for layer, inner in layers_of(pruned, dense):
        path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / layer.name))
        tf.train.Checkpoint(layer=inner).read(path).assert_existing_objects_matched()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "load",
    [by_layer_weights, by_own_variables, by_assignment, by_addition, by_traced_function, by_checkpoint_of_layers],
)
def test_dense_weights_are_masked_when_they_are_loaded(load, policy, tmp_path):
    with dtype_policy(policy, tf_keras):
        pruned, masks = wrapped(seed=1)
        dense = dense_model()
    pruned.fit(*data(8), verbose=0)  # with functions traced before
    load(pruned, dense, tmp_path)
    pruned.save_weights(tmp_path / "loaded.weights.h5")  # before anything reads them
    expected = masked(kernels(dense), masks)
    for path, value in expected.items():
        variable = pruned.get_layer(path.partition("/")[0]).layer.kernel
        np.testing.assert_array_equal(variable.read_value(), value)
        np.testing.assert_array_equal(np.asarray(variable), value)
    assert_kernels(pruned, expected)
    assert get_masks(pruned) == masks
    pruned.load_weights(tmp_path / "loaded.weights.h5")
    assert_kernels(pruned, expected)


def test_dense_checkpoints_of_whole_models_are_masked_and_dense_files_refused(tmp_path):
    pruned, masks = wrapped(seed=1)
    dense = dense_model()
    before = kernels(pruned)
    dense.save_weights(tmp_path / "dense.weights.h5")
    with pytest.raises(ValueError, match=r"strip_pruning\(model\)(.|\n)*Received: none for 'conv'"):
        pruned.load_weights(tmp_path / "dense.weights.h5")
    assert_kernels(pruned, before)
    dense.save_weights(str(tmp_path / "dense"))
    pruned.load_weights(str(tmp_path / "dense")).expect_partial()
    assert_kernels(pruned, masked(kernels(dense), masks))
    assert get_masks(pruned) == masks


@pytest.mark.parametrize("use_ema", [False, True])
def test_training_on_weights_assigned_from_outside_ignores_what_is_pruned(use_ema):
    models = []  # the function that trains is traced before, and the weights are not read before it runs again
    for values in (lambda masks: kernels(dense_model()), lambda masks: masked(kernels(dense_model()), masks)):
        optimizer = tf_keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=use_ema, ema_momentum=0.5)
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
    assign(pruned, kernels(dense_model()))
    x, _ = data()
    expected = pruned.predict(x, verbose=0)
    assign(pruned, kernels(dense_model()))  # the files are written before the weights are read
    path = str(tmp_path / how)
    pruned.export(path) if how == "export" else tf.saved_model.save(pruned, path)
    loaded = tf.saved_model.load(path)
    output = loaded.serve(x) if how == "export" else loaded(x)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    for name in (name for name, _ in tf.train.list_variables(f"{path}/variables/variables")):
        value = np.asarray(tf.train.load_variable(f"{path}/variables/variables", name))
        for of, mask in masks.items():
            if value.dtype == np.float32 and value.shape == mask.shape and "mask" not in name:
                assert not value[~mask].any(), f"{of} in {name}"


EPOCHS, STOPPED_AFTER = 4, 2


def fit_with_backup(directory, *callbacks):
    """Fits a wrapped model that is made anew, from the backup in a directory if there is one."""
    pruned, masks = wrapped(optimizer=adam())
    backup = tf_keras.callbacks.BackupAndRestore(str(directory))
    pruned.fit(*data(), batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup, *callbacks])
    return pruned, masks


class StoppedError(Exception):
    pass


def test_a_run_that_was_stopped_resumes_as_if_it_had_not_been(tmp_path):
    def stop(epoch, logs):
        if epoch == STOPPED_AFTER:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit_with_backup(tmp_path / "backup", tf_keras.callbacks.LambdaCallback(on_epoch_begin=stop))
    begun = []
    count = tf_keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    resumed, masks = fit_with_backup(tmp_path / "backup", count)
    assert begun == list(range(STOPPED_AFTER, EPOCHS))
    uninterrupted, _ = fit_with_backup(tmp_path / "other")
    assert get_masks(resumed) == masks
    assert_pruned(kernels(resumed), masks, "after the resumed run")
    for path, kernel in kernels(uninterrupted).items():
        np.testing.assert_allclose(kernels(resumed)[path], kernel, rtol=1e-4, atol=1e-5, err_msg=path)
