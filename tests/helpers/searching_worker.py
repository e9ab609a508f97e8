"""One of two workers of a MultiWorkerMirroredStrategy that search golden masks; a process of its own.

Its arguments are its index, the two ports, a Keras, a folder, and the number of the step at which it kills itself (0
for never). For each search it writes a line: the name, how many weights differ from the masks that the official codes
find on one device, and how many steps it has scored; or the error that ended it. Each worker has a checkpoint folder of
its own.
"""

import hashlib
import importlib
import json
import os
import pathlib
import signal
import sys

index, ports, module, folder, fatal_step = int(sys.argv[1]), sys.argv[2].split(","), *sys.argv[3:5], int(sys.argv[5])
cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})

import tensorflow as tf  # noqa: E402

STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow's

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import numpy as np  # noqa: E402

import force_tf  # noqa: E402
from force_tf.search import checkpoint  # noqa: E402
from helpers.golden_cases import build, load, pruner_for  # noqa: E402

checkpoint._SHARE = float("inf")  # a state after every step, however quick

TAGS = {
    "force": "force:d=0.05,T=10,B=1,ties",
    "grasp": "grasp:d=0.1,T=1,B=2",
    "prospr": "prospr:d=0.05,M=3,lr=0.1,momentum=0,full",
    "iter_snip": "iter_snip:d=0.05,T=10,B=1,ties",
}


def counted(pruner):
    """Lets a pruner count its steps, and die in one of them."""

    class Counted(type(pruner.criterion)):
        def scores(self, network):
            steps.append(None)
            if len(steps) == fatal_step:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().scores(network)

    steps = []
    object.__setattr__(pruner.criterion, "__class__", Counted)
    return steps


def tell(*what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main():
    keras = importlib.import_module(module)
    _, batches, _, golden = load("lenet")
    with STRATEGY.scope():
        model = build(keras, "lenet")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = (np.concatenate(parts) for parts in zip(*batches))
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(len(batches[0][0]))
    for name, data in (("force", batches), ("grasp", batches), ("prospr", dataset), ("iter_snip", dataset)):
        pruner = pruner_for(TAGS[name])
        steps = counted(pruner)
        masks = pruner.find_masks(model, data, loss, verbose=2, checkpoint=f"{folder}/{name}-{index}")
        differing = sum(int(np.sum(masks[path] != mask)) for path, mask in golden[TAGS[name]].items())
        tell(name, differing, len(steps))
    train = train_by_fit if module == "tf_keras" else train_by_loop  # of Keras 3, `fit` fails with plain models too
    pruned = force_tf.apply_masks(model, masks)
    before = [np.asarray(weight) for weight in pruned.trainable_weights]
    train(keras, pruned, dataset, loss)
    after = [np.asarray(weight) for weight in pruned.trainable_weights]
    kernels = [np.asarray(pruned.get_layer(path.split("/")[0]).kernel) for path in masks]
    returned = sum(int(np.count_nonzero(kernel[~mask])) for kernel, mask in zip(kernels, masks.values()))
    moved = any(np.any(one != other) for one, other in zip(before, after))
    if index == 0:
        np.savez(f"{folder}/trained.npz", *after)
    tell("trained", returned, moved, hashlib.sha256(b"".join(each.tobytes() for each in after)).hexdigest())


def train_by_fit(keras, pruned, dataset, loss):
    with STRATEGY.scope():
        pruned.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    pruned.fit(dataset, verbose=0)


def train_by_loop(keras, pruned, dataset, loss):
    """Runs the loop of docs/scale.md as it stands there."""
    text = pathlib.Path(__file__).parents[2].joinpath("docs", "scale.md").read_text()
    loop = text.partition("## Several machines")[2].split("```")[3]
    assert loop.startswith("text\nwith strategy.scope():\n    optimizer = "), loop
    names = {"tf": tf, "keras": keras, "strategy": STRATEGY, "pruned": pruned, "dataset": dataset, "loss": loss}
    exec(loop.removeprefix("text"), names)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        tell("error", type(error).__name__, str(error))
        os._exit(3)  # TensorFlow's own end may wait for the other worker
