"""Prints what single operations of TFLite cost on emulated processors, and how often EfficientNetB0 needs its swish.

    python benchmarks/emulated_operations.py --emulators=.emulators

Zeros among the weights spare multiply-adds of convolutions, and nothing of what lies between them. Each operation runs
eight times in a row on one map; `emulated.py` says what its times mean. The emulators are set up first where they are
missing (Debian, root).
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import emulated
import keras
import tensorflow as tf
from absl import flags
from list_flags import check_counts
from script import run_script

_EMULATORS = flags.DEFINE_string("emulators", ".emulators", "The folder of emulated processors; empty: none.")
_SIZES = flags.DEFINE_list("sizes", ["96", "224"], "Heights and widths of EfficientNetB0's images.")
_PIXELS = flags.DEFINE_integer("pixels", 112, "Height and width of the map.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 3, "Timed calls on an emulated processor.", lower_bound=1)
check_counts("sizes", 32)

_CHANNELS, _REPEATS = 96, 8
_OPERATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu6": tf.nn.relu6,
    "add": lambda x: x + x,
    "multiply": lambda x: x * x,
    "hard swish": lambda x: x * tf.nn.relu6(x + 3) * (1 / 6),
    "swish": tf.nn.swish,
    "logistic": tf.sigmoid,
    "tanh": tf.tanh,
    "exp": tf.exp,
    "gelu": lambda x: tf.nn.gelu(x, approximate=True),
}


def main() -> None:
    folder = _EMULATORS.value or None
    emulated.set_up(folder)
    rows = {name: _nanoseconds(operation, folder) for name, operation in _OPERATIONS.items()}
    processors = list(next(iter(rows.values())))
    print(f"| nanoseconds a number | {' | '.join(processors)} |\n{'|---' * (1 + len(processors))}|")
    for name, times in rows.items():
        print(f"| {name} | {' | '.join(f'{times[processor]:.2f}' for processor in processors)} |")
    print()
    for size in map(int, _SIZES.value):
        print(f"EfficientNetB0 at {size}x{size} computes swish of {_swish_outputs(size):,} numbers")


def _nanoseconds(operation: Callable[[tf.Tensor], tf.Tensor], folder: str | None) -> dict[str, float]:
    """Returns the time of an operation by the names of the processors."""
    shape = (1, _PIXELS.value, _PIXELS.value, _CHANNELS)

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def in_a_row(x):
        for _ in range(_REPEATS):
            x = operation(x)
        return x

    converter = tf.lite.TFLiteConverter.from_concrete_functions([in_a_row.get_concrete_function()])
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary, "operation.tflite")
        path.write_bytes(converter.convert())
        times = emulated.times(os.fspath(path), folder, _RUNS.value)
    return {name: 1e6 * milliseconds / _REPEATS / math.prod(shape) for name, milliseconds in times.items()}


def _swish_outputs(size: int) -> int:
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(size, size, 3))
    swish = [layer for layer in model.layers if getattr(layer, "activation", None) is keras.activations.silu]
    return sum(math.prod(layer.output.shape[1:]) for layer in swish)


if __name__ == "__main__":
    run_script(main, "--runs=3")
