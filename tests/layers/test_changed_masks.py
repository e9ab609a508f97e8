"""Masks that change between two calls of `fit`: what is pruned now is zero at once, and stays so."""

import types

import keras
import numpy as np
import pytest
import tf_keras

import force_tf
from force_tf.models import keras_internals
from helpers import subclassed_models
from helpers.subclassed_models import built, masks_for, two_layers
from helpers.training_forms import dtype_policy

OPTIMIZERS = {
    "sgd": lambda k, **kw: k.optimizers.SGD(0.05, **kw),
    "momentum": lambda k, **kw: k.optimizers.SGD(0.05, momentum=0.9, **kw),
    "nesterov": lambda k, **kw: k.optimizers.SGD(0.05, momentum=0.9, nesterov=True, **kw),
    "adam": lambda k, **kw: k.optimizers.Adam(0.01, **kw),
    "amsgrad": lambda k, **kw: k.optimizers.Adam(0.01, amsgrad=True, **kw),
    "adamw": lambda k, **kw: k.optimizers.AdamW(0.01, weight_decay=0.1, **kw),
    "nadam": lambda k, **kw: k.optimizers.Nadam(0.01, **kw),
    "adamax": lambda k, **kw: k.optimizers.Adamax(0.01, **kw),
    "adagrad": lambda k, **kw: k.optimizers.Adagrad(0.05, **kw),
    "adadelta": lambda k, **kw: k.optimizers.Adadelta(1.0, **kw),
    "rmsprop": lambda k, **kw: k.optimizers.RMSprop(0.01, momentum=0.9, centered=True, **kw),
    "ftrl": lambda k, **kw: k.optimizers.Ftrl(0.05, **kw),
    "lion": lambda k, **kw: k.optimizers.Lion(0.01, **kw),
    "muon": lambda k, **kw: k.optimizers.Muon(0.01, **kw),
}
NOT_IN_TF_KERAS = {"lion", "muon"}
X = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 64)


def trained(module, optimizer):
    layers = module.layers
    model = module.Sequential([module.Input((12,)), layers.Dense(10, "relu", name="a"), layers.Dense(3, name="b")])
    masks = force_tf.PruneAtInit("random", sparsity=0.2, seed=0).find_masks(model, verbose=0)
    pruned = force_tf.apply_masks(model, masks)
    pruned.compile(optimizer, module.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    return pruned


def narrow(pruned):
    """Prunes more than half of a layer's weights that are left, and returns the mask."""
    wrapper = pruned.get_layer("a")
    mask = wrapper.get_masks()["kernel"] & (np.random.default_rng(2).random((12, 10)) < 0.4)
    wrapper.set_masks({"kernel": mask})
    return mask


def nonzero_after_batches(module, pruned, mask):
    """Returns how many pruned weights are not zero after each batch of more training, read past the wrapper."""
    kernel = pruned.get_layer("a").layer.kernel
    raw = kernel._value if module is keras else kernel  # what `value` would project
    counts = [np.count_nonzero(np.asarray(raw)[~mask])]

    def count(batch, logs):
        counts.append(np.count_nonzero(np.asarray(raw)[~mask]))

    pruned.fit(X, Y, 16, epochs=2, verbose=0, callbacks=[module.callbacks.LambdaCallback(on_train_batch_end=count)])
    return counts


FAMILIES = [
    *(("keras", name) for name in OPTIMIZERS),
    *(("tf_keras", name) for name in OPTIMIZERS if name not in NOT_IN_TF_KERAS),
    *(("legacy", name) for name in ("momentum", "adam", "rmsprop", "ftrl")),
]


@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_newly_pruned_weights_are_zero_between_any_two_batches_and_forgotten(family, name):
    module = keras if family == "keras" else tf_keras
    legacy = types.SimpleNamespace(optimizers=tf_keras.optimizers.legacy)
    optimizer = OPTIMIZERS[name](legacy if family == "legacy" else module)
    pruned = trained(module, optimizer)
    variables = optimizer.variables() if family == "legacy" else optimizer.variables
    before = [np.array(slot) for slot in variables]
    mask = narrow(pruned)
    slots = [(old, np.array(slot)) for old, slot in zip(before, variables) if tuple(slot.shape) == mask.shape]
    for old, new in slots:  # what is kept keeps its momenta
        np.testing.assert_array_equal(new, old * mask)
    assert name == "sgd" or any(np.count_nonzero(new) for _, new in slots)
    assert nonzero_after_batches(module, pruned, mask) == [0] * 9


@pytest.mark.parametrize("family", ["new", "legacy"])
def test_mixed_precision_in_tf_keras_forgets_too(family):
    with dtype_policy("mixed_float16", tf_keras):
        optimizers = tf_keras.optimizers if family == "new" else tf_keras.optimizers.legacy
        pruned = trained(tf_keras, optimizers.Adam(0.01))
    mask = narrow(pruned)
    kernel, inner = pruned.get_layer("a").layer.kernel, pruned.optimizer.inner_optimizer
    slots = [slot.numpy() for slot in keras_internals.optimizer_slots(inner, kernel)]
    assert len(slots) == 2
    assert [np.count_nonzero(slot[~mask]) for slot in slots] == [0, 0]


@pytest.mark.parametrize("family", ["keras", "tf_keras", "legacy"])
def test_a_trained_model_that_is_wrapped_in_place_forgets_what_is_pruned(family):
    module = keras if family == "keras" else tf_keras
    optimizers = tf_keras.optimizers.legacy if family == "legacy" else module.optimizers
    model = built(two_layers(module))
    model.compile(optimizers.Adam(0.01), "mse")
    model.fit(subclassed_models.X, subclassed_models.Y, epochs=2, verbose=0)
    masks, kernel = masks_for(model), model.hidden.kernel
    before = [np.array(slot) for slot in keras_internals.optimizer_slots(model.optimizer, kernel)]
    force_tf.apply_masks(model, masks)
    slots = keras_internals.optimizer_slots(model.optimizer, kernel)
    assert len(slots) == 2
    for old, slot in zip(before, slots):
        np.testing.assert_array_equal(np.array(slot), old * masks["hidden/kernel"])


@pytest.mark.parametrize("options", [{"use_ema": True}, {"gradient_accumulation_steps": 3}])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_averages_and_accumulated_gradients_are_zero_too(name, options):
    optimizer = OPTIMIZERS[name](keras, **options)
    pruned = trained(keras, optimizer)
    mask = narrow(pruned)
    slots = [np.asarray(slot) for slot in optimizer.variables if tuple(slot.shape) == mask.shape]
    assert len(slots) == {"momentum": 2, "adam": 3}[name]
    assert [np.count_nonzero(slot[~mask]) for slot in slots] == [0] * len(slots)
    assert any(np.count_nonzero(slot[mask]) for slot in slots), "what is kept should keep its momenta"
    assert nonzero_after_batches(keras, pruned, mask) == [0] * 9


def test_momenta_from_a_file(tmp_path):
    pruned = trained(keras, OPTIMIZERS["momentum"](keras))
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert nonzero_after_batches(keras, loaded, narrow(loaded)) == [0] * 9
