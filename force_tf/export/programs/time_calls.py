"""Times the calls of a TFLite file. A program of its own, so that every measurement has a fresh process to itself:

    python -P time_calls.py '{"path": "model.tflite", "threads": 1, "runs": 50, "delegate": true}'

It prints a line of JSON: the "runtime", and either "milliseconds" (of each call), "processor_milliseconds" (those that
the processor worked for it) and "peak_memory" (in bytes, null where the system does not tell), or the "failure" in the
runtime's words. `benchmark_tflite` reads that line.

TensorFlow takes more memory than most files, so it is imported only where LiteRT is missing, and force_tf, which
imports it, never.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

# The first calls allocate, and bring clocks and caches to their working state.
_WARM_UP = 5


def measure(path: str, threads: int, runs: int, delegate: bool, warm_up: int = _WARM_UP) -> dict[str, Any]:
    """Returns what the program prints.

    Args:
        path: A TFLite file.
        threads: The number of threads that the interpreter may use.
        runs: The number of calls to time.
        delegate: Whether the runtime may hand operations to its default delegate, XNNPACK.
        warm_up: The number of calls before these.
    """
    Interpreter, OpResolverType, runtime = _runtime()  # noqa: N806 (classes)
    resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    rng = np.random.default_rng(0)  # before memory is looked at: numpy.random is loaded when it is first used
    before = _peak_memory()
    try:
        model = Interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=resolver)
        milliseconds, processor = _time_calls(model, warm_up, runs, rng)
    except (RuntimeError, ValueError) as error:
        return {"runtime": runtime, "failure": " ".join(str(error).split())}
    growth = None if before is None else _peak_memory() - before
    times = {"milliseconds": milliseconds, "processor_milliseconds": processor}
    return {"runtime": runtime, **times, "peak_memory": growth}


def _runtime() -> tuple[Any, Any, str]:
    try:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter, tf.lite.experimental.OpResolverType, f"tensorflow {tf.__version__}"
    return Interpreter, OpResolverType, f"ai-edge-litert {ai_edge_litert.__version__}"


def _time_calls(model: Any, warm_up: int, runs: int, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    model.allocate_tensors()
    for details in model.get_input_details():
        shape, dtype = details["shape"], details["dtype"]
        floating = np.issubdtype(dtype, np.floating)
        value = rng.standard_normal(shape, "float32") if floating else np.zeros(shape, dtype)
        model.set_tensor(details["index"], value.astype(dtype, copy=False))
    times, processor = [], []
    for _ in range(warm_up + runs):
        start, worked = time.perf_counter(), time.process_time()
        model.invoke()
        times.append(1000 * (time.perf_counter() - start))
        processor.append(1000 * (time.process_time() - worked))
    return times[warm_up:], processor[warm_up:]


def _peak_memory() -> int | None:
    """The largest resident set that this process has had, in bytes; None where the system does not tell."""
    if sys.platform == "linux":
        # Not getrusage: there, a program starts with the peak of the process that started it.
        with open("/proc/self/status") as status:
            return next((1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:")), None)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))  # noqa: T201 (its output)
