"""Searches that several devices share. Virtual devices have to be set before TensorFlow starts: in a process."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "shared_searches.py"
ALL = (pytest.mark.slow, pytest.mark.timeout(1800))  # minutes where other tests run beside it


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments", [["keras"], pytest.param(["all", "keras", "tf_keras"], marks=ALL)], ids=["some", "all"]
)
def test_two_replicas_share_searches(arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
