"""Finds masks with every setting on one device, on two replicas, or as one of two workers; a process of its own.

Its arguments are a Keras, a folder for files, where it runs ("alone", "replicas", or the index of a worker) and, for
workers, their two ports. For each setting it writes a line: the name, a digest of the masks and, where a model was
trained, how many pruned weights are not zero; or the error that ended it. In float64 the lines are the same everywhere.
The last line, a digest of trained weights, is the same on all workers.
"""

import hashlib
import importlib
import json
import os
import pathlib
import sys
import warnings

module_name, folder, role = sys.argv[1:4]
if role.isdigit():
    cluster = {"worker": [f"127.0.0.1:{port}" for port in sys.argv[4].split(",")]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(role)}})
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import tensorflow as tf  # noqa: E402

if role.isdigit():
    STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow's
elif role == "replicas":
    from helpers.two_cpus import STRATEGY
else:
    STRATEGY = tf.distribute.get_strategy()

import keras  # noqa: E402
import numpy as np  # noqa: E402

import force_tf  # noqa: E402
from force_tf.models.paths import mask_wrappers  # noqa: E402

module = importlib.import_module(module_name)
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(18, 8, 8, 2)), RANDOM.integers(0, 3, 18)
# Of Keras 3, `fit` fails with plain models too where there are several workers.
HAS_FIT = module is not keras or not role.isdigit()

SEARCHES = {
    "px": {"method": "px", "steps": 4},
    "ntk_sap": {"method": "ntk_sap", "steps": 2},
    "synflow": {"method": "synflow", "steps": 4},
    "early tickets": {"method": force_tf.criteria.EarlyTicket(inner_steps=3), "steps": 3},
    "pool": {"method": force_tf.criteria.Pool()},
    "micro-batches": {"micro_batch_size": 3},
    "cut on the device": {"cut": "device"},
    "inverted": {"invert": True},
    "repaired": {"method": "random", "repair": True, "sparsity": 0.97},
    "blocks": {"granularity": (1, 4)},
    "2:4": {"granularity": "2:4", "sparsity": 0.5},
    "channels": {"granularity": "channel"},
    "erk": {"scope": "erk", "min_per_layer": 5},
    "budget of parameters": {"budget": force_tf.Budget(parameters=0.2), "sparsity": None},
    "budget of flops": {"budget": force_tf.Budget(flops=0.5), "sparsity": None, "granularity": "channel"},
}
MOVING = {
    "flipout": {"noise": 0.0},  # each replica has its own
    **{name: {} for name in ("gmp", "greg", "dpf")},
    **{name: {"data": True} for name in ("granet", "rigl")},
}


def network(normalization=False):
    module.utils.set_random_seed(0)
    layers = module.layers
    with STRATEGY.scope():
        model = module.Sequential([module.Input((8, 8, 2)), layers.Conv2D(8, 3, name="conv")])
        if normalization:
            model.add(layers.BatchNormalization(name="norm"))
        for layer in (
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(12, "relu", name="hidden"),
            layers.Dense(3, name="head"),
        ):
            model.add(layer)
        loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(module.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


def dataset(size=17):
    """Of the last row by itself a worker has no part, if not otherwise told."""
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)


def search(normalization, data, micro_batch_size=None, **settings):
    pruner = force_tf.PruneAtInit(**{"method": "force", "sparsity": 0.8, "steps": 4, "seed": 0, **settings})
    model = network(normalization)
    return digest(pruner.find_masks(model, data, micro_batch_size=micro_batch_size, verbose=0))


def train(model, epochs=2, callback=None):
    """Trains by `fit` where that works, and else by the loop of docs/scale.md."""
    if HAS_FIT:
        logger = force_tf.callbacks.SparsityLogger(f"{folder}/log-{role}", data=(X, Y))
        callbacks = [logger] if callback is None else [callback, logger]
        history = model.fit(dataset(6), epochs=epochs, callbacks=callbacks, verbose=0).history
        assert not any(history["nonzero_masked_weights"] + history["nonzero_masked_gradients"])
        return
    optimizer, loss = model.optimizer, model.loss
    with STRATEGY.scope():
        optimizer.build(model.trainable_variables)
    if callback is not None:
        callback.start(model, optimizer, steps=3 * epochs)

    @tf.function
    def step(x, y):
        def on_replica(x, y):
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True)) + sum(model.losses) / STRATEGY.num_replicas_in_sync
            optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

        STRATEGY.run(on_replica, args=(x, y))

    for _ in range(epochs):
        for x, y in STRATEGY.experimental_distribute_dataset(dataset(6)):
            step(x, y)
            if callback is not None:
                callback.after_step()
    if callback is not None:
        callback.stop()


def move_masks(method, data=False, **settings):
    """Masks move while the model trains."""
    model = network()
    masks = None
    if method == "rigl":
        masks = force_tf.PruneAtInit("random", 0.7, seed=0, scope="erk").find_masks(model, verbose=0)
    pruned = force_tf.apply_masks(model, masks)
    callback = force_tf.callbacks.PruneDuringTraining(
        method, sparsity=0.7, every=2, data=dataset(6) if data else None, **settings
    )
    train(pruned, 4, callback)
    assert sum(row["dropped"] for row in callback.history)
    return digest(force_tf.get_masks(pruned)), returned(pruned), pruned


def find_ticket():
    ticket = force_tf.find_ticket(
        network(), train, sparsity=0.5, fraction=0.3, verbose=0, checkpoint=f"{folder}/ticket-{role}"
    )
    pruned = ticket.apply(network())
    train(pruned)
    return digest(ticket.masks), returned(pruned), pruned


def digest(masks):
    return hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in masks.values())).hexdigest()


def returned(pruned):
    """Returns how many pruned weights are not zero, on any replica of this process."""
    count = 0
    for _, wrapper in mask_wrappers(pruned):
        for each in wrapper.masked_weights:
            whole = each.variable.value if isinstance(each.variable, keras.Variable) else each.variable
            mask = each.mask.numpy().astype(bool)
            count += sum(np.count_nonzero(c.numpy()[~mask]) for c in STRATEGY.experimental_local_results(whole))
    return int(count)


def tell(*what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main():
    module.mixed_precision.set_global_policy("float64")
    module.backend.set_floatx("float64")
    warnings.simplefilter("ignore")
    for name, settings in SEARCHES.items():
        forms = [list(dataset()) if name == "micro-batches" else dataset()]
        if name in ("px", "ntk_sap"):
            forms.append(list(dataset()))
            if role == "replicas":
                forms.append(STRATEGY.experimental_distribute_dataset(dataset()))
        found = {search(name in ("px", "ntk_sap", "synflow"), data, **settings) for data in forms}
        assert len(found) == 1, f"{name}: other masks with other forms of the same data"
        tell(name, *found)
    trained = [find_ticket()]
    tell("ticket", *trained[-1][:2])
    for method, settings in MOVING.items():
        trained.append(move_masks(method, **settings))
        tell(method, *trained[-1][:2])
    weights = [np.asarray(weight) for *_, pruned in trained for weight in pruned.trainable_weights]
    tell("weights", hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest())


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        tell("error", type(error).__name__, str(error))
        raise
    finally:
        sys.stdout.flush()
        if role.isdigit():
            os._exit(3 if sys.exc_info()[0] else 0)  # TensorFlow's own end may wait for the other worker
