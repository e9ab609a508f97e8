"""Search and training on several devices. Virtual devices have to be set before TensorFlow starts: in a process."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["keras"], id="keras"),
        pytest.param(["all", "keras"], marks=pytest.mark.slow, id="keras-all"),
        pytest.param(["all", "tf_keras"], marks=pytest.mark.slow, id="tf_keras-all"),
    ],
)
def test_mirrored_strategy_over_two_virtual_cpus(arguments):
    script = Path(__file__).parents[1] / "helpers" / "two_replicas.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
