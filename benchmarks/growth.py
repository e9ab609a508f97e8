"""How the time of each operation grows with the layers and the weights of a network, and the memory of a search.

    python benchmarks/growth.py
    python benchmarks/growth.py --layers=600 --weights=150
    python benchmarks/growth.py --parts=peaks --weights=20 --methods=force,grasp,early_ticket,prospr

First chains of small dense layers, as many as `--layers` says: what is worse than linear shows in the last columns, the
growth of the time over that of the layers since the row above. Then chains of ten wide layers, of as many millions of
weights as `--weights` says. What Keras and TensorFlow alone take for the unpruned model stands beside it: as many
gradients as the search has steps, `clone_model`, `save` and `load_model`. Last the peak memory of searches, each in a
process of its own, beside that of the bare gradient. Times are CPU times of the process, in seconds; each network has a
process of its own.
"""

import json
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
from absl import flags

import force_tf
from force_tf.search.presets import PRESETS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from bare_gradient import bare_gradient, bare_hessian_product
from list_flags import check_counts, check_names, check_positive
from peak_memory import peak_bytes
from script import run_script

_LAYERS = flags.DEFINE_list("layers", ["10", "50", "200", "600"], "How many layers the chains of small layers have.")
_WEIGHTS = flags.DEFINE_list("weights", ["1", "20", "150"], "Millions of weights of the chains of ten layers.")
_METHODS = flags.DEFINE_list("methods", ["force"], "The methods whose peak memory is shown.")
_PARTS = flags.DEFINE_list("parts", ["layers", "weights", "peaks"], "What to measure.")
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of each search.", lower_bound=1)
_ONLY = flags.DEFINE_enum("only", None, ["times", "gradient", "product", "search"], "Print one measurement.")
_OF = flags.DEFINE_string("of", None, "Of which network, as JSON: the arguments of `_measured`.")
_WIDTH = flags.DEFINE_integer("width", 16, "The width of the small layers.", lower_bound=1)
check_names("parts", ["layers", "weights", "peaks"])
check_names("methods", list(PRESETS))
check_counts("layers")
check_positive("weights")

_DEEP = 10  # layers of the wide networks
_ROWS = 32
_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def main() -> None:
    warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # deep chains of narrow layers do
    if _ONLY.value:
        print(json.dumps(_measured(_ONLY.value, **json.loads(_OF.value))))
        return
    if "layers" in _PARTS.value:
        print(f"chains of dense layers of width {_WIDTH.value}; a search of {_STEPS.value} steps of {_ROWS} rows")
        show("layers", {int(count): {"layers": int(count), "width": _WIDTH.value} for count in _LAYERS.value})
    if "weights" in _PARTS.value:
        print(f"\nchains of {_DEEP} dense layers, by millions of weights")
        show("weights", {float(size): wide(float(size)) for size in _WEIGHTS.value})
    if "peaks" in _PARTS.value:
        print("\npeak memory of a process, in MiB, and the difference in copies of the weights")
        for size in map(float, _WEIGHTS.value):
            show_peaks(size)


def show(what, networks):
    print(f"{what:>8} " + " ".join(f"{stage:>8}" for stage in STAGES) + "   growth over that of the " + what)
    before = None
    for size, network in networks.items():
        seconds = in_process("times", network)
        growth = []
        if before is not None:
            growth = [now / max(old, 1e-9) / (size / before[0]) for now, old in zip(seconds, before[1])]
        print(f"{size:>8g} " + " ".join(f"{value:8.2f}" for value in seconds) + "   ", end="")
        print(" ".join(f"{value:.2f}" for value in growth), flush=True)
        before = size, seconds


def show_peaks(size):
    gradient, product = (in_process(what, wide(size)) for what in ("gradient", "product"))
    copy = 4 * _DEEP * width_of(size) ** 2
    print(f"{size:g} M weights: bare gradient {gradient / 2**20:,.0f}", flush=True)
    print(f"  bare Hessian product {product / 2**20:,.0f}, {(product - gradient) / copy:+.2f} copies", flush=True)
    for method in _METHODS.value:
        search = in_process("search", wide(size) | {"method": method})
        print(f"  {method} search {search / 2**20:,.0f}, {(search - gradient) / copy:+.2f} copies", flush=True)


def in_process(what, network):
    command = [sys.executable, __file__, f"--only={what}", f"--of={json.dumps(network)}", f"--steps={_STEPS.value}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def wide(millions):
    return {"layers": _DEEP, "width": width_of(millions)}


def width_of(millions):
    return round((millions * 1e6 / _DEEP) ** 0.5)


def chain(layers, width):
    """A network of so many layers, each with a bias, which keeps the scale of what passes through it."""
    inputs = x = keras.Input((width,))
    for index in range(layers):
        x = keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"dense_{index}")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="head")(x))
    model.compile("sgd", _LOSS)
    return model


def data_for(model):
    random = np.random.default_rng(0)
    return random.standard_normal((_ROWS, *model.input_shape[1:]), np.float32), random.integers(0, 10, _ROWS)


STAGES = (
    *("search", "wrap", "save", "load", "strip", "shrink"),
    *("gradient", "clone", "its save", "its load"),  # what Keras and TensorFlow alone take
)


def _measured(what, layers, width, method="force"):
    if what == "times":
        times(chain(2, _WIDTH.value))  # what is imported and made once
        return times(chain(layers, width))
    model = chain(layers, width)
    x, y = map(tf.constant, data_for(model))
    if what == "gradient":
        gradients(model, x, y)
    elif what == "product":
        product = bare_hessian_product(model, _LOSS)
        vectors = [tf.ones(variable.shape) for variable in model.trainable_variables]
        for _ in range(_STEPS.value):
            product(x, y, vectors)
    else:
        if method == "prospr":  # at its own rate of 0.1, training diverges on the widest
            method = force_tf.criteria.ProsPr(inner_learning_rate=1e-3)
        pruner = force_tf.PruneAtInit(method, sparsity=0.9, steps=_STEPS.value)
        pruner.find_masks(model, [(x, y)], _LOSS, verbose=0)
    return peak_bytes()


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
        _, gradient = timed(lambda: gradients(model, *map(tf.constant, data_for(model))))
        _, clone = timed(lambda: keras.models.clone_model(model))
        _, plain_save = timed(lambda: model.save(path))
        _, plain_load = timed(lambda: keras.models.load_model(path))
    return search, wrap, save, load, strip, shrink, gradient, clone, plain_save, plain_load


def gradients(model, x, y):
    gradient = bare_gradient(model, _LOSS)
    for _ in range(_STEPS.value):
        gradient(x, y)


def timed(function):
    begin = time.process_time()
    result = function()
    return result, time.process_time() - begin


if __name__ == "__main__":
    run_script(main, "--layers=10,50")
