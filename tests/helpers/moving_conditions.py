"""Every method of `PruneDuringTraining` under every form of training, against the plain `fit`: cases and checks."""

import contextlib
import dataclasses
import functools
import warnings

import keras
import numpy as np
import pytest

import force_tf
from force_tf.callbacks import PruneDuringTraining, Swap
from helpers.moving_masks import X, Y, dense_model, fit, masked_weights, state
from helpers.training_forms import dtype_policy

EPOCHS = 4
STEPS = 32  # of eight rows
SPARSITY = 0.8

SWAP = Swap(0.5, final_fraction=0.005, round_up=True)  # granet's, but with an end that does not depend on the training
# What each method is given besides its times.
METHODS = {
    "gmp": {},
    "dpf": {},
    "granet": {"swap": SWAP},
    "granet_st": {"initial_sparsity": 0.5, "swap": SWAP},
    "rigl": {},
    "set": {},
    "fggp": {},
    "flipout": {},
    "snip_it": {},
    "annealing": {},
    "greg": {},
    "greg_2": {},
    "snap_it": {},
}
START = {"granet_st": 0.5, "rigl": SPARSITY, "set": SPARSITY}  # sparse by ERK from the first step on
UNDER_MASKS = ("dpf", "annealing")
BY_CHANCE = ("flipout", "annealing")  # in every batch, on every replica


def make(module, method, optimizer=None, **compile_arguments):
    """Returns a compiled network with the masks that a method begins with: all kept, or those of ERK."""
    optimizer = module.optimizers.SGD(0.05, momentum=0.9) if optimizer is None else optimizer
    model = dense_model(module, optimizer, **compile_arguments)
    if method in START:
        return force_tf.PruneAtInit("random", sparsity=START[method], scope="erk", seed=0).prune(model, verbose=0)
    return force_tf.apply_masks(model)


def pruning_by(method, every=4, of=None, **settings):
    """Returns what prunes seven times: every so many steps, given as they are or as parts of `of` steps."""
    every, last = (every, 7 * every) if of is None else (every / of, 7 * every / of)
    settings = METHODS[method] | settings
    if "swap" in settings:
        settings["swap"] = dataclasses.replace(settings["swap"], last=last)
    name = "granet" if method == "granet_st" else method
    return PruneDuringTraining(name, SPARSITY, begin=0, end=last, every=every, data=(X, Y), batch_size=16, **settings)


@functools.cache
def of_plain_fit(module, method, every=4, batch_size=8, noise=None):
    """Returns the masks and weights after a plain `fit`, and what was done at each step."""
    model = make(module, method)
    pruning = pruning_by(method, every, noise=noise)
    fit(model, pruning, epochs=EPOCHS, batch_size=batch_size)
    return check(model, method), model.get_weights(), pruning.history


def check(model, method):
    """Checks the density, and that pruned weights are zero in memory and in all that the optimizer remembers."""
    masks = force_tf.get_masks(model)
    of_a_unit = 20 if method == "snap_it" else 1  # of the first layer: the 12 weights that it reads, and 8 that read it
    assert 69 - of_a_unit < masks.kept <= 69, f"{method} keeps {masks.kept} of 344"
    for path, values in state(model).items():
        assert len(values) > 1, "the optimizer's state was not found"
        for value in values:
            assert np.isfinite(value).all(), f"{method}: {path}"
            assert not value[~masks[path]].any(), f"{method}: pruned entries of {path} are not zero"
    return masks


def same(model, plain, method, rtol=1e-4, atol=1e-5):
    """Checks that masks and weights are those of a plain `fit`."""
    masks, weights, _ = plain
    assert check(model, method) == masks, f"{method} ends with other masks than a plain fit"
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def initial_epoch(module, method):
    """A `fit` that was interrupted, and goes on where it was."""
    model = make(module, method)

    def interrupt(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fit(model, pruning_by(method, of=STEPS), module.callbacks.LambdaCallback(on_epoch_end=interrupt), epochs=EPOCHS)
    fit(model, pruning_by(method, of=STEPS), initial_epoch=2, epochs=EPOCHS)
    same(model, of_plain_fit(module, method), method)


def several_fits(module, method):
    """Several calls of `fit`, each with a callback of its own."""
    model = make(module, method)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Nothing was pruned")  # in the first, by what prunes late
        for epoch in range(EPOCHS):
            fit(model, pruning_by(method), initial_epoch=epoch, epochs=epoch + 1)
    if method in UNDER_MASKS:  # what was under the masks is gone with every end of a training
        check(model, method)
    else:
        same(model, of_plain_fit(module, method), method)


def steps_per_execution(module, method):
    """Four steps in one call, after the last of which masks move."""
    model = make(module, method, steps_per_execution=4)
    pruning = pruning_by(method)
    fit(model, pruning, epochs=EPOCHS)
    plain = of_plain_fit(module, method)
    same(model, plain, method)
    assert [row["step"] for row in pruning.history] == [row["step"] for row in plain[2]]


def accumulation(module, method):
    """Two batches for every step, which is as a batch twice as large."""
    model = make(module, method, module.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=2))
    noise = 0 if method == "flipout" else None
    fit(model, pruning_by(method, 2, of=STEPS // 2, noise=noise), epochs=EPOCHS)
    if method == "annealing":  # draws for every batch
        check(model, method)
    else:
        same(model, of_plain_fit(module, method, 2, 16, noise), method)


def ema(module, method):
    """Moving averages, which are the weights in the end; before that they change nothing."""
    model = make(module, method, module.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9))
    if method in UNDER_MASKS:
        before = model.get_weights()
        with pytest.raises(ValueError, match=r"^Expected an optimizer without moving averages of the weights"):
            fit(model, pruning_by(method), epochs=EPOCHS)
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        return
    fit(model, pruning_by(method), epochs=EPOCHS)
    assert check(model, method) == of_plain_fit(module, method)[0]


def jit_compile(module, method):
    """Steps compiled by XLA, which rounds in other places, and draws other numbers."""
    model = make(module, method, jit_compile=True)
    noise = 0 if method == "flipout" else None
    pruning = pruning_by(method, noise=noise)
    fit(model, pruning, epochs=EPOCHS)
    masks, _, history = of_plain_fit(module, method, noise=noise)
    assert [row["step"] for row in pruning.history] == [row["step"] for row in history]
    assert agreement(check(model, method), masks) > 0.98


def mixed_precision(module, method):
    """Half precision, in which the first steps may overflow and are left out."""
    with dtype_policy("mixed_float16", module):
        model = make(module, method)
        fit(model, pruning_by(method), epochs=EPOCHS + 1)
        check(model, method)


def train_on_batch(module, method):
    """A loop of one's own."""
    model = make(module, method)
    pruning = pruning_by(method)
    pruning.start(model, steps=STEPS)
    for _ in range(EPOCHS):
        for begin in range(0, 64, 8):
            model.train_on_batch(X[begin : begin + 8], Y[begin : begin + 8])
            pruning.after_step()
    pruning.stop()
    same(model, of_plain_fit(module, method), method)


def on_two_replicas(module, method, strategy):
    """Half of each batch on each of two devices."""
    with strategy.scope():
        plain = dense_model(module, module.optimizers.SGD(0.05, momentum=0.9))
    model = force_tf.apply_masks(plain)
    if method in START:
        masks = force_tf.get_masks(make(module, method))
        model = force_tf.apply_masks(plain, masks)
    fit(model, pruning_by(method), epochs=EPOCHS)
    masks = check(model, method)
    if method not in BY_CHANCE:
        assert masks == of_plain_fit(module, method)[0], f"{method} ends with other masks than on one device"
    for path, each in masked_weights(model).items():
        variable = each.variable.value if isinstance(each.variable, keras.Variable) else each.variable
        replicas = [value.numpy() for value in variable.values]
        assert len(replicas) == 2
        for replica in replicas:
            np.testing.assert_array_equal(replica, replicas[0], f"{method}: {path}")


def agreement(one, other):
    """Returns the part of all weights that two masks agree on."""
    return np.mean(np.concatenate([(one[path] == other[path]).ravel() for path in one]))


CONDITIONS = {
    each.__name__: each
    for each in (
        initial_epoch,
        several_fits,
        steps_per_execution,
        accumulation,
        ema,
        jit_compile,
        mixed_precision,
        train_on_batch,
    )
}
