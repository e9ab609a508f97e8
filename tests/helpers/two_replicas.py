"""Wraps and trains under MirroredStrategy over two virtual CPUs; to be run in a process of its own.

Its argument is the Keras to use, `keras` or `tf_keras`, after `all` for everything: without it, fewer methods.
"""

import importlib
import sys
import tempfile
from pathlib import Path

from two_cpus import STRATEGY  # isort: skip (before TensorFlow starts)

import keras
import numpy as np
from moving_masks import X, Y, dense_model, fit
from training_forms import compiled_model, data

import force_tf
from force_tf.layers import wrapper_class


def make_model(module, optimizer="adam"):
    module.utils.set_random_seed(0)
    return compiled_model(optimizer, module)


def prune(module, strategy, optimizer="adam"):
    with strategy.scope():
        model = make_model(module, optimizer)
    masks = force_tf.PruneAtInit("snip", sparsity=0.6, min_per_layer=8, seed=0).find_masks(model, data(), verbose=0)
    return force_tf.apply_masks(model, masks), masks  # outside of the scope: a copy is distributed as the model is


def check_training(module, strategy, optimizer, **arguments):
    pruned, masks = prune(module, strategy, optimizer)
    pruned.run_eagerly = arguments.get("run_eagerly", False)
    before = {weight.path: weight.variable.numpy() for weight in masked_weights(pruned)}
    pruned.fit(*data(), batch_size=8, verbose=0)
    for weight in masked_weights(pruned):
        mask, replicas = masks_of(weight), [value.numpy() for value in replicas_of(weight.variable)]
        assert len(replicas) == strategy.num_replicas_in_sync == 2
        assert not np.array_equal(replicas[0], before[weight.path]), f"{weight.path} has not trained"
        for replica in replicas:
            assert not replica[~mask].any(), f"{optimizer}: pruned weights of {weight.path} are not zero"
            np.testing.assert_array_equal(replica, replicas[0])
    assert force_tf.get_masks(pruned) == masks
    return pruned


def check_assignment(pruned):
    for weight in masked_weights(pruned):
        mask = masks_of(weight)
        weight.variable.assign(np.ones(mask.shape))
        np.testing.assert_array_equal(weight.variable, mask)


def check_strip_and_export(module, strategy):
    pruned, masks = prune(module, strategy)
    plain = force_tf.strip_pruning(pruned)
    assert plain.distribute_strategy is strategy
    for path, mask in masks.items():
        replicas = replicas_of(plain.get_layer(path.split("/")[0]).kernel)
        assert len(replicas) == 2
        assert not any(replica.numpy()[~mask].any() for replica in replicas), path
    with tempfile.TemporaryDirectory() as directory:
        report = force_tf.export_tflite(pruned, Path(directory) / "model.tflite")
    assert report.max_difference < 1e-4, report


def check_moving_masks(module, strategy, method):
    with strategy.scope():
        model = dense_model(module, module.optimizers.SGD(0.1, momentum=0.9))
    pruned = force_tf.apply_masks(model)
    pruning = force_tf.callbacks.PruneDuringTraining(method, sparsity=0.7, every=4, data=(X, Y))
    fit(pruned, pruning)
    assert force_tf.get_masks(pruned).kept == round(0.3 * 344)
    assert method not in ("granet", "dpf") or sum(row["grown"] for row in pruning.history)
    for weight in masked_weights(pruned):
        mask, replicas = masks_of(weight), [value.numpy() for value in replicas_of(weight.variable)]
        for replica in replicas:
            assert not replica[~mask].any(), f"{method}: pruned weights of {weight.path} are not zero"
            np.testing.assert_array_equal(replica, replicas[0])


def masked_weights(pruned):
    wrappers = [layer for layer in pruned.layers if isinstance(layer, wrapper_class(pruned))]
    return [weight for wrapper in wrappers for weight in wrapper.masked_weights]


def masks_of(weight):
    return weight.mask.numpy().astype(bool)


def replicas_of(variable):
    """Returns the copy of a variable on each device."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).values


if __name__ == "__main__":
    *everything, module_name = sys.argv[1:]
    of = importlib.import_module(module_name)
    trained = check_training(of, STRATEGY, "adam")
    check_strip_and_export(of, STRATEGY)
    check_assignment(trained)
    for method_name in ("granet", "dpf", *(["flipout", "greg", "annealing"] if everything else [])):
        check_moving_masks(of, STRATEGY, method_name)
    if everything:
        check_training(of, STRATEGY, "adam", run_eagerly=True)
        if of is keras:
            check_training(of, STRATEGY, "muon")
