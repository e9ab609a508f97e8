"""How much more memory a search takes than the bare gradient, in copies of the weights: the aims of docs/scale.md."""

import pathlib
import re
import subprocess
import sys

import pytest

BENCHMARK = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "growth.py"


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux")
def test_searches_hold_three_copies_and_four_with_inner_steps():
    most = {"force": 3.0, "early_ticket": 4.0, "prospr": 4.0}
    command = [sys.executable, BENCHMARK, "--parts=peaks", "--weights=20", f"--methods={','.join(most)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copies = dict(re.findall(r"(\w+) search .*, ([+-][\d.]+) copies", done.stdout))
    assert copies.keys() == most.keys()
    for method, bound in most.items():
        assert float(copies[method]) <= bound, (method, done.stdout)
