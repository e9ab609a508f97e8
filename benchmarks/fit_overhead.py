"""Times a training step of `fit` on a wrapped model against the same step on the dense model.

Both models are trained in turn within one run, so that whatever else the machine does falls on both alike. On a machine
that is shared, CPU time says more than wall time.
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
import tensorflow as tf
from absl import flags

import force_tf
from force_tf.layers import apply_masks

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from script import run_script

FLAGS = flags.FLAGS
flags.DEFINE_enum("network", "all", ["all", "convnet", "mlp", "lenet_300_100"], "The network to time.")
flags.DEFINE_string("optimizer", "adam", "A Keras optimizer, by name.")
flags.DEFINE_float("sparsity", 0.95, "The fraction of the weights that is pruned.", lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_integer("batch_size", 128, "Samples per step.", lower_bound=1)
flags.DEFINE_integer("steps", 20, "Steps per round: one call of `fit` of each model.", lower_bound=1)
flags.DEFINE_integer("rounds", 25, "Rounds.", lower_bound=1)
flags.DEFINE_bool("jit_compile", False, "Whether to compile the step with XLA.")


def convnet() -> keras.Model:
    """A VGG-like network for 32x32 images, 0.3 M weights."""
    layers = [keras.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(filters, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
        ]
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)])


def mlp(widths: tuple[int, int]) -> keras.Model:
    """Two hidden layers for 28x28 images."""
    hidden = [keras.layers.Dense(width, activation="relu") for width in widths]
    return keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)])


_NETWORKS = {
    "convnet": convnet,
    "mlp": lambda: mlp((1024, 1024)),  # 1.9 M weights
    "lenet_300_100": lambda: mlp((300, 100)),  # 0.27 M weights: calling the operations takes longer than computing them
}


def step_times(models: tuple[keras.Model, keras.Model]) -> np.ndarray:
    """Returns seconds per step: an array of shape (2 clocks: wall, CPU of all threads; rounds; 2 models)."""
    rng = np.random.default_rng(0)
    samples = FLAGS.batch_size * FLAGS.steps
    x = rng.normal(size=(samples, *models[0].input_shape[1:])).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, rng.integers(10, size=samples))).batch(FLAGS.batch_size).cache()
    times = np.empty((2, FLAGS.rounds, 2))
    for model in models:
        model.fit(data, verbose=0, shuffle=False)  # traces, and fills the cache
    for round_number in range(FLAGS.rounds):
        for place in (0, 1) if round_number % 2 else (1, 0):
            start = time.perf_counter(), time.process_time()
            models[place].fit(data, verbose=0, shuffle=False)
            times[:, round_number, place] = time.perf_counter() - start[0], time.process_time() - start[1]
    return times / FLAGS.steps


def measure(name: str) -> None:
    """Prints the step times of one network."""
    model = _NETWORKS[name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=FLAGS.optimizer, loss=loss, jit_compile=FLAGS.jit_compile)
    rng = np.random.default_rng(0)
    masks = {
        f"{layer.name}/kernel": rng.random(layer.kernel.shape) >= FLAGS.sparsity
        for layer in model.layers
        if hasattr(layer, "kernel")
    }
    for clock, times in zip(("wall", "CPU"), step_times((model, apply_masks(model, masks)))):
        for label, values, unit in (
            ("dense", 1e3 * times[:, 0], "ms per step"),
            ("wrapped", 1e3 * times[:, 1], "ms per step"),
            ("ratio", times[:, 1] / times[:, 0], ""),
        ):
            low, median, high = np.percentile(values, (25, 50, 75))
            print(f"{name:14s} {clock:5s} {label:8s} {median:8.3f} (quartiles {low:.3f} to {high:.3f}) {unit}".rstrip())


def main() -> None:
    devices = ", ".join(device.name.rpartition("physical_device:")[-1] for device in tf.config.list_physical_devices())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {devices}; Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, force_tf {force_tf.__version__}"
    )
    print(f"batch size {FLAGS.batch_size}, {FLAGS.optimizer}, sparsity {FLAGS.sparsity}, {FLAGS.rounds} rounds")
    for name in _NETWORKS if FLAGS.network == "all" else (FLAGS.network,):
        measure(name)


if __name__ == "__main__":
    run_script(main, "--network=mlp")
