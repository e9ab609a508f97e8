"""Runs a part of the tests on combinations of Python, TensorFlow and Keras, each in an environment of its own.

    python tools/test_versions.py             # all combinations whose Python is there
    python tools/test_versions.py colab low   # some

Environments are made in `.versions/` on first use and kept. The Pythons are looked for with pyenv and as `python3.x`. A
combination whose Python is missing is skipped, and the table at the end says so.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".versions"
# What differs between versions: graphs and copies, wrappers and files, the schema of TFLite, traces in float64.
TESTS = (
    *("tests/search/test_golden.py", "tests/search/test_contract.py", "tests/search/test_supported_layers.py"),
    *("tests/search/test_checkpoint.py", "tests/search/test_targets.py", "tests/criteria"),
    *("tests/search/test_budget.py", "tests/search/test_repair.py", "tests/tickets"),
    *("tests/models", "tests/objective", "tests/layers/test_layers_apply.py", "tests/layers/test_subclassed.py"),
    "tests/layers/test_placement.py",
    *("tests/layers/test_clones.py", "tests/layers/test_other_ways_to_a_layer.py", "tests/layers/test_edited_files.py"),
    "tests/training/test_prune_during_training.py",
    *("tests/layers/test_checkpoints.py", "tests/layers/test_training.py", "tests/layers/test_tf_keras_models.py"),
    *("tests/training/test_prune_during_training_forms.py", "tests/training/test_dense_under_masks.py"),
    *("tests/training/test_sign_flips.py", "tests/training/test_growing_penalty.py"),
    "tests/training/test_random_draws.py",
    *("tests/shrinking/test_shrink.py", "tests/shrinking/test_shrink_layers.py", "tests/cost"),
    *(
        "tests/export/test_export.py",
        "tests/export/test_sparse_encoding.py",
        "tests/export/test_sparse_kernels.py",
        "tests/export/test_rewrites.py",
        "tests/project/test_compat.py",
    ),
)


@dataclasses.dataclass(frozen=True)
class Combination:
    """Versions that belong together: all that pip is told beside the package's own requirements."""

    python: str
    tensorflow: str
    keras: str

    @property
    def requirements(self) -> list[str]:
        return [f"tensorflow=={self.tensorflow}.*", f"tf_keras=={self.tensorflow}.*", f"keras=={self.keras}.*"]


COMBINATIONS = {
    "low": Combination("3.11", "2.18", "3.8"),
    "between": Combination("3.12", "2.19", "3.10"),
    "colab": Combination("3.13", "2.20", "3.13"),
    "newest": Combination("3.13", "2.21", "3.15"),
}


def find_python(version: str) -> str | None:
    """Returns a Python of a version such as "3.12", from pyenv or the path."""
    root = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    candidates += filter(None, [shutil.which(f"python{version}")])
    for candidate in candidates:
        code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    return None


def environment(name: str, combination: Combination, python: str) -> str:
    """Makes the environment of a combination if it is not there, and returns its Python."""
    folder = FOLDER / name
    stamp, inside = folder / ".installed", str(folder / "bin" / "python")
    wanted = "\n".join([*combination.requirements, (ROOT / "setup.cfg").read_text()])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"{name}: installing into {folder.relative_to(ROOT)} …", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        command = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", ".[dev]"]
        subprocess.run([*command, *combination.requirements], check=True, cwd=ROOT)
        stamp.write_text(wanted)
    return inside


def run_tests(python: str) -> tuple[bool, str]:
    """Runs the tests, and returns whether they passed, and pytest's last line."""
    command = [python, "-m", "pytest", "-q", "-n", os.environ.get("WORKERS", "2"), "-p", "no:cacheprovider", *TESTS]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            sys.stdout.write(line)
            lines.append(line.strip())
    summaries = [line for line in lines if re.search(r"\d+ (passed|failed|errors?)\b.* in ", line)]
    return process.returncode == 0, summaries[-1] if summaries else "no summary"


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in COMBINATIONS]
    if unknown:
        print(f"Expected combinations among {', '.join(COMBINATIONS)}. Received: {', '.join(unknown)}")
        return 2
    rows, failed = [], False
    for name in names or COMBINATIONS:
        combination = COMBINATIONS[name]
        python = find_python(combination.python)
        if python is None:
            result = f"skipped: no Python {combination.python} was found"
        else:
            begin = time.monotonic()
            passed, summary = run_tests(environment(name, combination, python))
            failed |= not passed
            result = f"{summary} (with set-up {time.monotonic() - begin:.0f} s)"
        rows.append((name, combination.python, combination.tensorflow, combination.keras, result))
    print("\n| combination | Python | TensorFlow, tf_keras | Keras | result |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
