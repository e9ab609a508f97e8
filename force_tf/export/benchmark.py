"""`benchmark_tflite`: how long a TFLite file takes on this machine, and how much memory."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from force_tf.export.programs.child import run_program
from force_tf.support import arguments

_PROGRAM = "time_calls.py"


@dataclasses.dataclass(frozen=True)
class ModeLatency:
    """The calls of a TFLite file in one mode of the interpreter.

    Attributes:
        median: Half of the calls took no longer than this, in milliseconds.
        lower_quartile: A quarter of the calls took no longer than this, in milliseconds.
        upper_quartile: Three quarters of the calls took no longer than this, in milliseconds.
        minimum: The shortest call, which other processes disturbed least, in milliseconds.
        peak_memory: By how many bytes the peak of the process's resident memory grew from before the interpreter was
            made until after the last call: the parts of the file that were read, weights unpacked or repacked, the
            tensors, and the runtime's own code and buffers as far as this file made it use them. Python and the loaded
            libraries are not in it. None where the system does not tell.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    peak_memory: int | None

    def __str__(self) -> str:
        memory = "" if self.peak_memory is None else f"; peak memory {self.peak_memory / 1e6:.1f} MB"
        return (
            f"{self.median:.3f} ms (quartiles {self.lower_quartile:.3f} to {self.upper_quartile:.3f}, "
            f"minimum {self.minimum:.3f}{memory})"
        )


@dataclasses.dataclass(frozen=True)
class TFLiteLatency:
    """What `benchmark_tflite` measured; prints as a few lines.

    `median`, `lower_quartile`, `upper_quartile`, `minimum` and `peak_memory` are those of `default`, None where the
    file does not run so.

    Attributes:
        path: The file.
        runtime: What ran it, such as "ai-edge-litert 2.3.0".
        threads: The number of threads that the interpreter was given.
        runs: The number of calls timed in each mode.
        default: The calls with the runtime's default delegate, XNNPACK, or None if the file does not run with it.
        without_delegate: Those with the runtime's own kernels alone, or None if the file does not run with them.
        failures: Why the file does not run in a mode, under the name of that mode.
    """

    path: str
    runtime: str
    threads: int
    runs: int
    default: ModeLatency | None
    without_delegate: ModeLatency | None
    failures: dict[str, str]

    @property
    def median(self) -> float | None:
        """The median with the default delegate, in milliseconds."""
        return None if self.default is None else self.default.median

    @property
    def lower_quartile(self) -> float | None:
        """The lower quartile with the default delegate, in milliseconds."""
        return None if self.default is None else self.default.lower_quartile

    @property
    def upper_quartile(self) -> float | None:
        """The upper quartile with the default delegate, in milliseconds."""
        return None if self.default is None else self.default.upper_quartile

    @property
    def minimum(self) -> float | None:
        """The shortest call with the default delegate, in milliseconds."""
        return None if self.default is None else self.default.minimum

    @property
    def peak_memory(self) -> int | None:
        """The growth of the peak memory with the default delegate, in bytes."""
        return None if self.default is None else self.default.peak_memory

    def to_dict(self) -> dict[str, Any]:
        """Returns the measurements as a dict of plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.runtime}, threads: {self.threads}, {self.runs} runs)"]
        for label, mode in (("default delegate", "default"), ("without delegate", "without_delegate")):
            latency = getattr(self, mode)
            lines.append(f"{label}  {f'does not run: {self.failures[mode]}' if latency is None else latency}")
        return "\n".join(lines)


def benchmark_tflite(path: str | os.PathLike, *, threads: int = 1, runs: int = 50) -> TFLiteLatency:
    """Times a TFLite file, with the default delegate and without it, and measures the memory that it takes.

    Each of the two gets a fresh process, and some calls to warm up. TensorFlow is in these processes only where
    `ai-edge-litert` is not installed.

    Args:
        path: A TFLite file.
        threads: The number of threads that the interpreter may use.
        runs: The number of calls to time. Inputs have the shape that the file declares, with 1 for a size that may
            vary; floating-point inputs are standard normal, others zero, an index that every embedding holds.

    Returns:
        A `TFLiteLatency`: median, quartiles and minimum in milliseconds, and the growth of the peak memory in bytes,
        for both modes. A mode in which the file does not run is None, and `failures` has the reason.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If `threads` or `runs` is no integer.
        ValueError: If `threads` or `runs` is below 1, or the interpreter can load and run the file in neither mode.

    Example:

    >>> latency = force_tf.benchmark_tflite("model.tflite")
    >>> latency.median, latency.without_delegate.median
    (0.41, 0.78)
    """
    path = os.fsdecode(path)
    settings = {
        "path": path,
        "threads": arguments.integer("threads", threads, minimum=1),
        "runs": arguments.integer("runs", runs, minimum=1),
    }
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a TFLite file. Received: {path!r}, which does not exist.")
    results = {
        "default": run_program(_PROGRAM, {**settings, "delegate": True}),
        "without_delegate": run_program(_PROGRAM, {**settings, "delegate": False}),
    }
    modes = {mode: _latency(result) for mode, result in results.items()}
    failures = {mode: result["failure"] for mode, result in results.items() if "failure" in result}
    if len(failures) == len(modes):
        reasons = " / ".join(dict.fromkeys(failures.values()))
        raise ValueError(f"Expected a TFLite file that the interpreter can run ({reasons}). Received: {path!r}")
    runtime = next(result["runtime"] for result in results.values() if "runtime" in result)
    return TFLiteLatency(runtime=runtime, failures=failures, **settings, **modes)


def _latency(result: dict[str, Any]) -> ModeLatency | None:
    if "failure" in result:
        return None
    lower, median, upper = map(float, np.percentile(result["milliseconds"], [25, 50, 75]))
    return ModeLatency(median, lower, upper, min(result["milliseconds"]), result["peak_memory"])
