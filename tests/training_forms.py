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


def data(samples=48):
    rng = np.random.default_rng(1)
    return rng.normal(size=(samples, 6, 6, 1)).astype("float32"), rng.integers(3, size=samples)


def kernels(model):
    """Returns the kernels of a model, wrapped or not, by their paths."""
    layers = {name: model.get_layer(name) for name in LAYERS}
    return {f"{name}/kernel": getattr(layer, "layer", layer).kernel.numpy() for name, layer in layers.items()}


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
