"""What a step of a search costs on one device, on two of the same machine, and with two workers.

    python benchmarks/workers.py
    python benchmarks/workers.py --weights=20 --rows=256 --settings=one_device,two_workers

A FORCE search of a chain of dense layers. The devices are logical ones of the CPU, and the workers are processes that
talk over 127.0.0.1: they share the same cores, so that this shows what sharing costs, and nothing of what it brings on
machines of their own. Traffic is what passes through the loopback interface, of all programs, in a step.
"""

import json
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from list_flags import check_names
from script import run_script

_KNOWN = ("one_device", "two_devices", "two_workers")
_SETTINGS = flags.DEFINE_list("settings", list(_KNOWN), "What to compare.")
check_names("settings", _KNOWN)
_WEIGHTS = flags.DEFINE_float("weights", 5, "Millions of weights.", lower_bound=0.01)
_ROWS = flags.DEFINE_integer("rows", 256, "Rows of a batch, of all devices together.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of the search; the first two are not counted.", lower_bound=4)
_ROLE = flags.DEFINE_string("role", None, "Run one process of a setting, and print what it has measured.")

_LAYERS = 10
_UNCOUNTED = 2


def main() -> None:
    if _ROLE.value:
        print(json.dumps(run(_ROLE.value)))
        return
    megabytes = 4 * _LAYERS * width() ** 2 / 2**20
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(f"{_WEIGHTS.value:g} M weights, {megabytes:,.0f} MiB; {_ROWS.value} rows; per step, the median of seconds:")
    for setting in _SETTINGS.value:
        measured = processes_of(setting)
        seconds = max(each["seconds"] for each in measured)
        cpu = sum(each["cpu"] for each in measured)
        traffic = f", {measured[0]['traffic'] / 2**20:8,.1f} MiB of traffic" if len(measured) > 1 else ""
        print(f"{setting:>12}: {seconds:7.3f} s, {cpu:7.3f} s of CPU time{traffic}")


def width():
    return round((_WEIGHTS.value * 1e6 / _LAYERS) ** 0.5)


def processes_of(setting):
    """Runs the processes of a setting at once, and returns what each has measured."""
    roles, environments = [setting], [os.environ]
    if setting == "two_workers":
        ports = [free_port(), free_port()]
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
        roles, environments = roles * 2, [{**os.environ, "TF_CONFIG": json.dumps(task)} for task in tasks]
    sizes = [f"--{flag.name}={flag.value}" for flag in (_WEIGHTS, _ROWS, _STEPS)]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, f"--role={role}", *sizes], env=environment, stdout=subprocess.PIPE, text=True
        )
        for role, environment in zip(roles, environments)
    ]
    try:
        outputs = [process.communicate(timeout=1800)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(role):
    import tensorflow as tf

    strategy = strategy_of(role, tf)
    import keras
    import numpy as np

    import force_tf

    random = np.random.default_rng(0)
    with strategy.scope():
        x = inputs = keras.Input((width(),))
        for index in range(_LAYERS):
            x = keras.layers.Dense(width(), "relu", kernel_initializer="he_normal", name=f"dense_{index}")(x)
        model = keras.Model(inputs, keras.layers.Dense(10)(x))
    batch = random.standard_normal((_ROWS.value, width()), np.float32), random.integers(0, 10, _ROWS.value)
    marks = []

    class Marked:
        """The same batch for every step, drawn with a look at the clocks."""

        def __iter__(self):
            while True:
                marks.append((time.process_time(), loopback_bytes()))
                yield batch

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruner = force_tf.PruneAtInit("force", sparsity=0.9, steps=_STEPS.value)
    pruner.find_masks(model, Marked(), loss, verbose=0)
    (cpu, sent), (cpu_end, sent_end) = marks[_UNCOUNTED], marks[_STEPS.value - 1]
    counted = _STEPS.value - 1 - _UNCOUNTED
    return {
        "seconds": statistics.median(row["seconds"] for row in pruner.history[_UNCOUNTED:-1]),
        "cpu": (cpu_end - cpu) / counted,
        "traffic": (sent_end - sent) / counted,
    }


def strategy_of(role, tf):
    if role == "two_workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if role == "one_device":
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def loopback_bytes():
    """Returns how many bytes the loopback interface has sent."""
    lines = pathlib.Path("/proc/net/dev").read_text().splitlines()
    counters = next(line.partition(":")[2].split() for line in lines if line.strip().startswith("lo:"))
    return int(counters[8])


if __name__ == "__main__":
    run_script(main, "--weights=5")
