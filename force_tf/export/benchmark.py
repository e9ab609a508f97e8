"""`benchmark_tflite`: how long a TFLite file takes on this machine."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import numpy as np

from force_tf.export.quiet import quiet
from force_tf.export.runtime import interpreter

# The first calls allocate, and bring clocks and caches to their working state.
_WARM_UP = 5


@dataclasses.dataclass(frozen=True)
class TFLiteLatency:
    """The latency of a TFLite file, in milliseconds per call.

    Attributes:
        median: Half of the calls took no longer than this.
        lower_quartile: A quarter of the calls took no longer than this.
        upper_quartile: Three quarters of the calls took no longer than this.
        minimum: The shortest call, which other processes disturbed least.
        runs: The number of calls timed.
        threads: The number of threads that the interpreter was given.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    runs: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the latency as a dict of plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.median:.3f} ms (quartiles {self.lower_quartile:.3f} to {self.upper_quartile:.3f}, "
            f"minimum {self.minimum:.3f}; {self.runs} runs, threads: {self.threads})"
        )


def benchmark_tflite(path: str | os.PathLike, threads: int = 1, runs: int = 50) -> TFLiteLatency:
    """Times a TFLite file in a fresh interpreter with the default delegates, after some calls to warm up.

    Args:
        path: A TFLite file.
        threads: The number of threads that the interpreter may use.
        runs: The number of calls to time. Inputs have the shape that the file declares, batch size 1 where it may vary;
            floating-point inputs are random, others zero, an index that every embedding holds.

    Returns:
        The median, quartiles and minimum, in milliseconds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `threads` or `runs` is below 1, or the interpreter cannot load or run the file.

    Example:

    >>> force_tf.benchmark_tflite("model.tflite").median
    0.41
    """
    path = os.fspath(path)
    for name, value in (("threads", threads), ("runs", runs)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected `{name}` to be a whole number of at least 1. Received: {name}={value!r}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a TFLite file. Received: {path!r}, which does not exist.")
    with quiet():
        try:
            milliseconds = _time_calls(path, threads, runs)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"Expected a TFLite file that the interpreter can run ({reason}). Received: {path!r}"
            ) from error
    lower, median, upper = np.percentile(milliseconds, [25, 50, 75])
    return TFLiteLatency(float(median), float(lower), float(upper), float(min(milliseconds)), runs, threads)


def _time_calls(path: str, threads: int, runs: int) -> list[float]:
    model = interpreter(model_path=path, num_threads=threads)
    model.allocate_tensors()
    rng = np.random.default_rng(0)
    for details in model.get_input_details():
        shape, dtype = details["shape"], details["dtype"]
        floating = np.issubdtype(dtype, np.floating)
        value = rng.standard_normal(shape) if floating else np.zeros(shape)
        model.set_tensor(details["index"], value.astype(dtype))
    times = []
    for _ in range(_WARM_UP + runs):
        start = time.perf_counter()
        model.invoke()
        times.append(1000 * (time.perf_counter() - start))
    return times[_WARM_UP:]
