"""Times `fit` under `PruneDuringTraining`: an update of the masks, and the steps between, in steps of a masked model.

For every method, a model whose masks stay and one whose masks move are trained in turn within one run, so that whatever
else the machine does falls on both alike. On a machine that is shared, CPU time says more than wall time.
"""

from __future__ import annotations

import os
import pathlib
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import keras
import numpy as np
from absl import flags

import force_tf
from force_tf.callbacks import PruneDuringTraining

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
import networks
from list_flags import check_counts, check_names
from script import run_script

MLP = "mlp"
METHODS = ["gmp", "granet", "rigl", "set", "fggp", "snip_it", "flipout", "greg", "dpf", "annealing"]

FLAGS = flags.FLAGS
flags.DEFINE_list("methods", METHODS, "The methods to time.")
flags.DEFINE_enum(
    "network", MLP, [MLP, *networks.NAMES], "The network: an MLP for 28x28 images, or one for 32x32 ones."
)
flags.DEFINE_list("widths", ["1024", "1024"], "The units of the hidden layers of the MLP.")
flags.DEFINE_string("optimizer", "adam", "What trains it.")
flags.DEFINE_integer("batch_size", 128, "Samples per step, and per batch of an update.", lower_bound=1)
flags.DEFINE_integer("steps", 20, "Steps per round: one call of `fit` of each model.", lower_bound=4)
flags.DEFINE_integer("rounds", 10, "Rounds.", lower_bound=1)
check_names("methods", METHODS)
check_counts("widths")


def make(sparsity: float) -> keras.Model:
    """Returns a masked model, of random masks or of none."""
    if FLAGS.network == MLP:
        hidden = [keras.layers.Dense(int(width), activation="relu") for width in FLAGS.widths]
        model = keras.Sequential([keras.Input(image_shape()), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)])
    else:
        model = networks.build(FLAGS.network, image_shape(), classes=10)
    model.compile(FLAGS.optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if not sparsity:
        return force_tf.apply_masks(model)
    return force_tf.PruneAtInit("random", sparsity=sparsity, scope="erk").prune(model, verbose=0)


def image_shape() -> tuple[int, int, int]:
    """Returns height, width and channels of the images."""
    return (28, 28, 1) if FLAGS.network == MLP else (32, 32, 3)


def measure(method: str, x: np.ndarray, y: np.ndarray) -> None:
    """Prints what a step and an update of a method take."""
    swaps = method in ("rigl", "set")
    still, moving = make(0.9 * swaps), make(0.9 * swaps)
    samples = FLAGS.batch_size * FLAGS.steps
    options = {"batch_size": FLAGS.batch_size, "verbose": 0, "shuffle": False}
    # The timetable is that of a long training, of which each round is a part; no update falls into it after the first.
    clock = PruneDuringTraining(method, 0.9, data=(x, y), batch_size=FLAGS.batch_size, begin=0, end=10**7, every=10**6)
    steps = np.empty((FLAGS.rounds, 2))
    for model in (still, moving):
        model.fit(x[:samples], y[:samples], **options)
    for number in range(FLAGS.rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            callbacks = [clock] if place else []
            model = (still, moving)[place]
            # A first batch traces the step, where it is another one.
            watch = _Watch()
            model.fit(x[:samples], y[:samples], callbacks=[*callbacks, watch], **options)
            steps[number, place] = watch.seconds
    taken = update_times(method, make(0.9 * swaps), x, y)
    step = np.median(steps[:, 0])
    low, middle, high = np.percentile(steps[:, 1] / steps[:, 0], (25, 50, 75))
    least, usual, most = np.percentile(np.array(taken) / step, (25, 50, 75))
    print(
        f"{method:10s} step {1e3 * step:7.2f} ms; with the method {middle:.3f} of it ({low:.3f} to {high:.3f}); "
        f"an update {1e3 * np.median(taken):7.2f} ms, {usual:.2f} steps ({least:.2f} to {most:.2f})",
        flush=True,
    )


def update_times(method: str, model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Returns CPU seconds of the updates of a training by hand, but for the first, which traces."""
    data = {"data": (x, y), "batch_size": FLAGS.batch_size}
    every = {} if method in ("snip_it", "flipout", "annealing") else {"every": 2}
    pruning = PruneDuringTraining(method, 0.9, **data, **every)
    found = []
    pruning.start(model, steps=2 * FLAGS.steps)
    for _ in range(2 * FLAGS.steps):
        model.train_on_batch(x[: FLAGS.batch_size], y[: FLAGS.batch_size])
        before, began = len(pruning.history), time.process_time()
        pruning.after_step()
        if len(pruning.history) > before:
            found.append(time.process_time() - began)
    pruning.stop()
    return found[1:] or found


class _Watch(keras.callbacks.Callback):
    """Measures CPU seconds per step, without the first."""

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch == 1:
            self._began = time.process_time()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch:
            self.seconds = (time.process_time() - self._began) / batch


def main() -> None:
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, Keras {keras.__version__}, "
        f"force_tf {force_tf.__version__}; CPU time; {FLAGS.rounds} rounds, "
        f"batch {FLAGS.batch_size}, {FLAGS.optimizer}, "
        + (f"widths {'-'.join(FLAGS.widths)}" if FLAGS.network == MLP else FLAGS.network)
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FLAGS.batch_size * max(FLAGS.steps, 5), *image_shape())).astype("float32")
    y = rng.integers(10, size=len(x))
    for method in FLAGS.methods:
        measure(method, x, y)


if __name__ == "__main__":
    run_script(main, "--methods=rigl")
