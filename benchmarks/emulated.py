"""Times of TFLite files on emulated processors, for the benchmarks of phones.

An emulator computes vector instructions one by one: its times tell which of two files does less work, not what a phone
needs. They are of the processor, the least of some calls, so that other work on the machine matters little.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

from force_tf.export.processors import processors_in
from force_tf.export.programs.child import run_program

THIS = "this machine"


def set_up(folder: str | None) -> None:
    """Sets up emulated processors in a folder, where they are missing; None: no folder."""
    if folder is not None:
        tool = pathlib.Path(__file__).resolve().parents[1] / "tools" / "setup_emulators.py"
        subprocess.run([sys.executable, str(tool), folder], check=True)


def times(path: str, folder: str | None, runs: int) -> dict[str, float]:
    """Returns the milliseconds of a call on each emulated processor of a folder, and on this machine.

    Args:
        path: A TFLite file.
        folder: Where the processors are; None: this machine alone.
        runs: Timed calls on an emulated processor.
    """
    found = {item.name: milliseconds(path, runs, 1, item.python) for item in processors_in(folder)}
    return found | {THIS: milliseconds(path, 50, 5)}


def milliseconds(path: str, runs: int, warm_up: int, python: tuple[str, ...] = (sys.executable,)) -> float:
    """Returns the least processor time of a call on one thread."""
    settings = {"path": path, "threads": 1, "runs": runs, "delegate": True, "warm_up": warm_up}
    result = run_program("time_calls.py", settings, python)
    if "failure" in result:
        raise RuntimeError(result["failure"])
    return min(result["processor_milliseconds"])
