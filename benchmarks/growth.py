"""How the time of each operation grows with the layers and the weights of a network, and the memory of a search.

    python benchmarks/growth.py
    python benchmarks/growth.py --layers=600 --weights=150

First chains of small dense layers, as many as `--layers` says: what is worse than linear shows in the last column, the
growth of the time over that of the layers since the row above. Then chains of ten wide layers, of as many millions of
weights as `--weights` says, each in a process of its own with the peak memory of a FORCE search there, beside that of
its bare gradient. Times are CPU times of the process, in seconds.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import force_tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from bare_gradient import bare_gradient
from list_flags import check_counts, check_positive
from peak_memory import peak_bytes

_LAYERS = flags.DEFINE_list("layers", ["10", "50", "200", "600"], "How many layers the chains of small layers have.")
_WEIGHTS = flags.DEFINE_list("weights", ["1", "20", "150"], "Millions of weights of the chains of ten layers.")
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of each search.", lower_bound=1)
_PEAK = flags.DEFINE_enum("peak", None, ["gradient", "search"], "Print only the peak memory of one of the two.")
_WIDTH = flags.DEFINE_integer("width", 16, "The width of the small layers.", lower_bound=1)
check_counts("layers")
check_positive("weights")

_DEEP = 10  # layers of the wide networks
_ROWS = 32


def main(argv):
    del argv
    warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # deep chains of narrow layers do
    if _PEAK.value:
        print(peak_of(_PEAK.value, float(_WEIGHTS.value[0])))
        return
    print(f"chains of dense layers of width {_WIDTH.value}; a search of {_STEPS.value} steps of {_ROWS} rows")
    rows = [(int(count), *times(chain(int(count), _WIDTH.value))) for count in _LAYERS.value]
    print(table("layers", rows))
    print(f"\nchains of {_DEEP} dense layers, by millions of weights")
    print(table("weights", [(float(size), *times(chain(_DEEP, width_of(float(size))))) for size in _WEIGHTS.value]))
    print("\npeak memory of a process, in MiB, and the difference in copies of the weights")
    for size in _WEIGHTS.value:
        gradient, search = (peak_in_process(what, size) for what in ("gradient", "search"))
        copy = 4 * _DEEP * width_of(float(size)) ** 2
        print(
            f"{size:>6} M weights: bare gradient {gradient / 2**20:8,.0f}, FORCE search {search / 2**20:8,.0f}, "
            f"{(search - gradient) / copy:+.2f} copies of {copy / 2**20:,.0f} MiB"
        )


def width_of(millions):
    return round((millions * 1e6 / _DEEP) ** 0.5)


def chain(layers, width):
    """A network of so many layers, each with a bias, which keeps the scale of what passes through it."""
    inputs = x = keras.Input((width,))
    for index in range(layers):
        x = keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"dense_{index}")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="head")(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data_for(model):
    random = np.random.default_rng(0)
    return random.standard_normal((_ROWS, *model.input_shape[1:]), np.float32), random.integers(0, 10, _ROWS)


STAGES = ("search", "wrap", "save", "load", "strip", "shrink")


def times(model):
    """CPU seconds of each stage."""
    pruner = force_tf.PruneAtInit("force", sparsity=0.9, steps=_STEPS.value, scope="layer", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        masks, search = timed(lambda: pruner.find_masks(model, data_for(model), verbose=0))
        pruned, wrap = timed(lambda: force_tf.apply_masks(model, masks))
        _, save = timed(lambda: pruned.save(path))
        _, load = timed(lambda: keras.models.load_model(path))
    _, strip = timed(lambda: force_tf.strip_pruning(pruned))
    _, shrink = timed(lambda: force_tf.shrink(pruned))
    return search, wrap, save, load, strip, shrink


def timed(function):
    begin = time.process_time()
    result = function()
    return result, time.process_time() - begin


def table(what, rows):
    lines = [f"{what:>8} " + " ".join(f"{stage:>8}" for stage in STAGES) + "   growth over that of the " + what]
    before = None
    for row in rows:
        size, *seconds = row
        growth = ""
        if before is not None:
            ratio = size / before[0]
            growth = "   " + " ".join(f"{now / max(old, 1e-9) / ratio:.2f}" for now, old in zip(seconds, before[1:]))
        lines.append(f"{size:>8g} " + " ".join(f"{value:8.2f}" for value in seconds) + growth)
        before = row
    return "\n".join(lines)


def peak_in_process(what, size):
    command = [sys.executable, __file__, f"--peak={what}", f"--weights={size}", f"--steps={_STEPS.value}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1])


def peak_of(what, millions):
    model = chain(_DEEP, width_of(millions))
    x, y = map(tf.constant, data_for(model))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if what == "gradient":
        gradient = bare_gradient(model, loss)
        for _ in range(_STEPS.value):
            gradient(x, y)
    else:
        pruner = force_tf.PruneAtInit("force", sparsity=0.9, steps=_STEPS.value)
        pruner.find_masks(model, [(x, y)], loss, verbose=0)
    return peak_bytes()


if __name__ == "__main__":
    app.run(main)
