"""Traces of published codes that prune while they train: what each of their updates saw, and the masks that it made.

The network has 240 prunable weights: a convolution of 108 and two dense layers of 72 and 60. The file holds, for each
trace, one row per update of arrays that are flat, layer after layer.
"""

import functools
import pathlib

import numpy as np

SIZES = (108, 72, 60)
TOTAL = 240
_FILE = pathlib.Path(__file__).parents[1] / "golden" / "training.npz"


@functools.cache
def _arrays():
    with np.load(_FILE, allow_pickle=False) as arrays:
        return dict(arrays)


def trace(name):
    """Returns the arrays of a trace by their names."""
    return {key.removeprefix(f"{name}/"): array for key, array in _arrays().items() if key.startswith(f"{name}/")}


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
