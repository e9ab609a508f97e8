"""Runs programs of this package in processes of their own."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run_program(name: str, settings: dict[str, Any], python: Sequence[str] = (sys.executable,)) -> dict[str, Any]:
    """Runs a program of this folder, which takes JSON and prints a line of JSON.

    Args:
        name: The name of the file, such as "time_calls.py".
        settings: What it is told.
        python: The command that starts a Python.

    Returns:
        What it printed, or the "failure" that kept it from that: a crash of the process, or its last words.
    """
    # Without -P its neighbours in this package would hide modules of the same names.
    program = os.fspath(pathlib.Path(__file__).with_name(name))
    command = [*python, "-P", program, json.dumps(settings)]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, encoding="utf-8", errors="replace", **streams) as process:
        try:
            output, messages = process.communicate()
        except BaseException:  # such as Ctrl-C
            process.kill()
            process.wait()
            raise
    if process.returncode < 0:
        return {"failure": f"the process was ended by {signal.Signals(-process.returncode).name}"}
    if process.returncode > 0:
        last = messages.splitlines()[-1:] or [f"the process ended with the code {process.returncode}"]
        return {"failure": last[0]}
    return json.loads(output.splitlines()[-1])
