"""Traces of published codes that prune while they train: what each of their updates saw, and the masks that it made.

The network has 240 prunable weights: a convolution of 108 and two dense layers of 72 and 60. The file holds, for each
trace, one row per update of arrays that are flat, layer after layer.
"""

import functools
import pathlib

import numpy as np

SIZES = (108, 72, 60)
TOTAL = 240
_FOLDER = pathlib.Path(__file__).parents[1] / "golden"


@functools.cache
def _arrays(file):
    with np.load(_FOLDER / file, allow_pickle=False) as arrays:
        return dict(arrays)


def trace(name, file="training.npz"):
    """Returns the arrays of a trace by their names."""
    return {key.removeprefix(f"{name}/"): array for key, array in _arrays(file).items() if key.startswith(f"{name}/")}


def steps(name):
    """Returns the arrays of a trace, by their names, with a row per step, and the weights at its start."""
    return trace(name, "training_steps.npz")


def flat(model):
    """Returns the weights that a wrapped network of the traces shows, flat, in the order of the traces of torch."""
    kernels = [np.asarray(model.get_layer(name).layer.kernel) for name in ("conv1", "fc1", "fc2")]
    return np.concatenate([(k.transpose(3, 2, 0, 1) if k.ndim == 4 else k.T).ravel() for k in kernels])


def updates(name):
    """Yields, for each update of a trace, its row of all arrays that have one."""
    rows = trace(name)
    count = len(rows["after"])
    for row in range(count):
        yield {key: array[row] for key, array in rows.items() if "/" not in key and len(array) == count}


def data():
    """Returns the inputs (48, 6, 6, 2), channels last, and targets (48,) that all traces have trained on, in order."""
    rng = np.random.RandomState(0)
    x, y = rng.standard_normal((48, 2, 6, 6)), rng.randint(0, 5, 48)
    return x.transpose(0, 2, 3, 1), y


def traced_network(module, rows, weight_decay, optimizer):
    """Returns the network of the traces in float64, with the weights with which they begin."""
    layers, penalty = module.layers, {}
    if weight_decay:
        # In torch a weight decay is a penalty of half its size, on biases too.
        penalty = {key: module.regularizers.L2(weight_decay / 2) for key in ("kernel_regularizer", "bias_regularizer")}
    model = module.Sequential(
        [
            module.Input((6, 6, 2)),
            layers.Conv2D(6, 3, activation="softplus", name="conv1", **penalty),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, activation="softplus", name="fc1", **penalty),
            layers.Dense(5, name="fc2", **penalty),
        ]
    )
    for name in ("conv1", "fc1", "fc2"):
        kernel = channels_last(rows.get(f"w0/{name}.weight", rows.get(f"w0/{name}")), f"w0/{name}.weight" in rows)
        model.get_layer(name).set_weights([kernel, np.zeros(kernel.shape[-1])])
    model.compile(optimizer, module.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def channels_last(kernel, is_torch=True):
    if not is_torch:
        return kernel
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
