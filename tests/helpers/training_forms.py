"""A small model to wrap and train, for tests of what training and files do to pruned weights, in either Keras."""

import contextlib

import keras
import numpy as np

from force_tf.layers import apply_masks

LAYERS = ("conv", "hidden", "logits")


def small_model(module=keras, regularizer=None):
    """Returns a convolutional network of one Keras; `module` is `keras` or `tf_keras`."""
    layers = module.layers
    return module.Sequential(
        [
            module.Input((6, 6, 1)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="normalization"),
            layers.Flatten(name="flatten"),
            layers.Dense(8, activation="relu", name="hidden", kernel_constraint=module.constraints.MaxNorm(2.0)),
            layers.Dense(3, name="logits", kernel_regularizer=regularizer),
        ]
    )


def compiled_model(optimizer="adam", module=keras, regularizer=None, **compile_arguments):
    model = small_model(module, regularizer)
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **compile_arguments)
    return model


def revealing(module):
    """Returns an optimizer that moves weights without a gradient."""
    if module is keras:
        return module.optimizers.Muon(0.01)
    return module.optimizers.AdamW(0.01, weight_decay=0.1)


@contextlib.contextmanager
def dtype_policy(policy, module=keras):
    """Makes the models of the block compute in another precision."""
    module.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        module.mixed_precision.set_global_policy("float32")


def random_masks(model, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{layer.name}/kernel": rng.random(layer.kernel.shape) < density
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def wrapped(module=keras, seed=0, optimizer="adam"):
    """Returns a wrapped model with kernels of its own, and its masks."""
    module.utils.set_random_seed(seed)
    model = compiled_model(optimizer, module)
    masks = random_masks(model, seed=seed)
    return apply_masks(model, masks), masks


def dense_model(module=keras, seed=7):
    module.utils.set_random_seed(seed)
    return compiled_model(module=module)


def data(samples=48):
    rng = np.random.default_rng(1)
    return rng.normal(size=(samples, 6, 6, 1)).astype("float32"), rng.integers(3, size=samples)


def kernels(model):
    """Returns the kernels of a model, wrapped or not, by their paths."""
    layers = {name: model.get_layer(name) for name in LAYERS}
    return {f"{name}/kernel": getattr(layer, "layer", layer).kernel.numpy() for name, layer in layers.items()}


def dense_kernels(seed=7):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=kernel.shape) for path, kernel in kernels(small_model()).items()}


def masked(values, masks):
    return {path: np.where(masks[path], value, 0).astype("float32") for path, value in values.items()}


def assign(pruned, values):
    for path, value in values.items():
        pruned.get_layer(path.partition("/")[0]).layer.kernel.assign(value)


def assert_kernels(model, expected, where=""):
    found = kernels(model)
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=f"{path} {where}")


def assert_pruned(values, masks, where):
    for path, mask in masks.items():
        revived = np.count_nonzero(values[path][~mask])
        assert revived == 0, f"{revived} of {np.count_nonzero(~mask)} pruned weights of {path} are not zero {where}"


def fit_and_check(pruned, masks, module=keras, epochs=2, callbacks=(), **fit_arguments):
    """Fits a wrapped model, and checks its weights after every batch and epoch."""
    before = kernels(pruned)
    check = module.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: assert_pruned(kernels(pruned), masks, f"after batch {batch}"),
        on_epoch_end=lambda epoch, logs: assert_pruned(kernels(pruned), masks, f"after epoch {epoch}"),
    )
    pruned.fit(*data(), batch_size=8, epochs=epochs, verbose=0, callbacks=[*callbacks, check], **fit_arguments)
    after = kernels(pruned)
    assert_pruned(after, masks, "after fit")
    for path, mask in masks.items():
        assert np.isfinite(after[path]).all(), path
        if pruned.get_layer(path.partition("/")[0]).trainable:
            assert (after[path] != before[path])[mask].any(), f"no kept weight of {path} has moved"


def train(optimizer, regularizer=None, module=keras, fit_arguments=None, **compile_arguments):
    """Wraps and fits a model, checks the weights after every batch, and returns it with its masks."""
    model = compiled_model(optimizer, module, regularizer, **compile_arguments)
    masks = random_masks(model)
    pruned = apply_masks(model, masks)
    fit_and_check(pruned, masks, module, **(fit_arguments or {}))
    return pruned, masks


# Ways to bring the weights of a dense model into a wrapped one; `directory` is for files.


def pairs_of_layers(pruned, dense):
    """Yields every layer of a dense model with the one of a wrapped model that holds the same weights."""
    for layer in dense.layers:
        wrapper = pruned.get_layer(layer.name)
        yield layer, getattr(wrapper, "layer", wrapper)


def by_layer_weights(pruned, dense, directory):
    for layer, inner in pairs_of_layers(pruned, dense):
        inner.set_weights(layer.get_weights())


def by_own_variables(pruned, dense, directory):
    for layer, inner in pairs_of_layers(pruned, dense):
        store = {}
        layer.save_own_variables(store)
        inner.load_own_variables(store)
