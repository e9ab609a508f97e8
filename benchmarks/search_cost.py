"""What a step of the search costs beside the gradient that it cannot do without: seconds and memory.

    python benchmarks/search_cost.py --network=vgg19 --batch_size=128 --rounds=5
    python benchmarks/search_cost.py --parts=peaks --batch_size=256 --micro_batch_size=64

A FORCE step (draw a batch, gradient, score, cut, assign the masked weights) is timed against a bare `tf.function`
gradient of the same model and batch, in turns in one process: by the clock, and in CPU seconds of all threads, which
tell more where the machine does other work. The cut is timed alone on as many scores as the network has weights. Peak
memory is that of fresh processes, one that computes gradients and one that searches, and with `--micro_batch_size` one
that searches in such parts.
"""

import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import force_tf
from force_tf.support.top_k import top_k

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
import networks
from bare_gradient import bare_gradient
from list_flags import check_names
from peak_memory import peak_bytes
from script import run_script

_NETWORK = flags.DEFINE_string("network", "vgg19", "A network of examples/networks.py, in its CIFAR form.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per batch.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed pairs of a bare gradient and a FORCE step.", lower_bound=1)
_SPARSITY = flags.DEFINE_float("sparsity", 0.99, "Final sparsity of the search.")
_MICRO_BATCH_SIZE = flags.DEFINE_integer("micro_batch_size", None, "Rows of a batch computed at once.", lower_bound=1)
_PARTS = flags.DEFINE_list("parts", ["steps", "cuts", "peaks"], "What to measure.")
_PEAK = flags.DEFINE_enum("peak", None, ["gradient", "search"], "Print only the peak memory of one of the two.")
check_names("parts", ["steps", "cuts", "peaks"])


def main() -> None:
    if _PEAK.value:
        run_for_peak(_PEAK.value)
        return
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}")
    for name, measure in {"steps": time_steps, "cuts": time_cuts, "peaks": compare_peaks}.items():
        if name in _PARTS.value:
            measure()


def build():
    model = networks.build(_NETWORK.value, (32, 32, 3), classes=10, seed=0)
    random = np.random.default_rng(0)
    size = _BATCH_SIZE.value
    batch = random.standard_normal((size, 32, 32, 3)).astype("float32"), random.integers(0, 10, size)
    return model, batch, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def time_steps():
    model, batch, loss = build()
    gradient = bare_gradient(model, loss)
    x, y = map(tf.constant, batch)
    gradient(x, y)
    turns = []  # clocks before and after each bare gradient

    class Turns:
        """Data that times a bare gradient before every batch, so that both see the machine in the same state."""

        def __iter__(self):
            while True:
                begin = clocks()
                gradient(x, y)[-1].numpy()
                turns.append((begin, clocks()))
                yield batch

    pruner = force_tf.PruneAtInit("force", sparsity=_SPARSITY.value, steps=_ROUNDS.value + 2)
    pruner.find_masks(model, Turns(), loss, verbose=0, micro_batch_size=_MICRO_BATCH_SIZE.value)
    # From the end of one bare gradient to the begin of the next the search does one step. The first traces, and the
    # last assigns no masks.
    turns = np.array(turns)
    bare, steps = turns[1:-1, 1] - turns[1:-1, 0], turns[2:, 0] - turns[1:-1, 1]
    size = sum(variable.shape.num_elements() for variable in model.trainable_weights)
    print(f"{_NETWORK.value}, {size:,} weights, batch {_BATCH_SIZE.value}, {_ROUNDS.value} rounds: median (min to max)")
    for clock, name in enumerate(("wall", "CPU")):
        print(f"  bare gradient, {name:4} {spread(bare[:, clock])} s")
        print(f"  FORCE step, {name:4}    {spread(steps[:, clock])} s")
        print(f"  ratio, pair by pair {spread(steps[:, clock] / bare[:, clock])}")


def clocks():
    return time.perf_counter(), time.process_time()


def time_cuts():
    scores = np.abs(np.random.default_rng(0).standard_normal(20_000_000, np.float32))
    print("the cut of 20,000,000 scores, by density: median (min to max), and of those alone that a step before kept")
    for name, values in {"distinct": scores, "half zeros": np.where(scores > 0.67, scores, 0)}.items():
        for density in (0.99, 0.9, 0.5, 0.1, 0.01, 0.001):
            k = round(density * values.size)
            before = top_k(scores, min(round(1.08 * k), values.size))  # as in 60 steps to a hundredth
            print(f"  {name:10} {density:6.3f}  {timed(values, k, None)} s  {timed(values, k, before)} s")


def timed(scores, k, eligible):
    seconds = []
    for _ in range(_ROUNDS.value):
        begin = time.perf_counter()
        top_k(scores, k, eligible)
        seconds.append(time.perf_counter() - begin)
    return spread(seconds)


def compare_peaks():
    gradient, weights = peak_in_process("gradient")
    print(f"peak memory, batch {_BATCH_SIZE.value}: gradient {gradient / 2**20:,.0f} MiB")
    for rows in dict.fromkeys((None, _MICRO_BATCH_SIZE.value)):
        search, _ = peak_in_process("search", rows)
        parts = "" if rows is None else f" in parts of {rows}"
        extra = (search - gradient) / (4 * weights)
        print(f"  search{parts} {search / 2**20:,.0f} MiB, {extra:+.2f} float32 copies of the {weights:,} weights")


def peak_in_process(what, micro_batch_size=None):
    command = [sys.executable, __file__, f"--peak={what}", f"--network={_NETWORK.value}"]
    command += [f"--batch_size={_BATCH_SIZE.value}", f"--sparsity={_SPARSITY.value}"]
    command += [] if micro_batch_size is None else [f"--micro_batch_size={micro_batch_size}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return map(int, result.stdout.split())


def run_for_peak(what):
    model, batch, loss = build()
    if what == "gradient":
        gradient = bare_gradient(model, loss)
        for _ in range(3):
            gradient(*map(tf.constant, batch))
    else:
        pruner = force_tf.PruneAtInit("force", sparsity=_SPARSITY.value, steps=4)
        pruner.find_masks(model, [batch], loss, verbose=0, micro_batch_size=_MICRO_BATCH_SIZE.value)
    print(peak_bytes(), sum(variable.shape.num_elements() for variable in model.trainable_weights))


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    run_script(main, "--rounds=5")
