"""Searches, wraps and trains under MirroredStrategy over two virtual CPUs; to be run in a process of its own."""

import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)  # before TensorFlow starts

import keras  # noqa: E402
import numpy as np  # noqa: E402
from training import compiled_model, data  # noqa: E402

import force_tf  # noqa: E402


def make_model(optimizer="adam"):
    keras.utils.set_random_seed(0)
    return compiled_model(optimizer)


def find_masks(model, method):
    settings = {"steps": 3} if "iter" in method or method == "synflow" else {}
    pruner = force_tf.PruneAtInit(method, sparsity=0.6, min_per_layer=8, seed=0, **settings)
    return pruner.find_masks(model, data(), verbose=0)


def check_search(strategy):
    for method in ("iter_snip", "grasp", "synflow", "prospr"):
        expected = find_masks(make_model(), method)
        with strategy.scope():
            model = make_model()
            inside = find_masks(model, method)
        assert inside == expected, f"{method} finds other masks inside the scope"
        assert find_masks(model, method) == expected, f"{method} finds other masks outside of the scope"


def check_training(strategy, optimizer, **arguments):
    with strategy.scope():
        model = make_model(optimizer)
        masks = find_masks(model, "snip")
        pruned = force_tf.apply_masks(model, masks)
    pruned.run_eagerly = arguments.get("run_eagerly", False)
    before = {weight.path: weight.variable.numpy() for weight in masked_weights(pruned)}
    pruned.fit(*data(), batch_size=8, verbose=0)
    for weight in masked_weights(pruned):
        mask, replicas = weight.mask.numpy(), [value.numpy() for value in weight.variable.value.values]
        assert len(replicas) == strategy.num_replicas_in_sync == 2
        assert not np.array_equal(replicas[0], before[weight.path]), f"{weight.path} has not trained"
        for replica in replicas:
            assert not replica[~mask].any(), f"{optimizer}: pruned weights of {weight.path} are not zero"
            np.testing.assert_array_equal(replica, replicas[0])
        weight.variable.assign(np.ones(mask.shape))
        np.testing.assert_array_equal(weight.variable, mask)
    assert force_tf.get_masks(pruned) == masks


def masked_weights(pruned):
    wrappers = [layer for layer in pruned.layers if isinstance(layer, force_tf.MaskedLayer)]
    return [weight for wrapper in wrappers for weight in wrapper.masked_weights]


if __name__ == "__main__":
    two_cpus = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    check_search(two_cpus)
    for name in ("adam", "muon"):
        check_training(two_cpus, name)
    check_training(two_cpus, "adam", run_eagerly=True)
