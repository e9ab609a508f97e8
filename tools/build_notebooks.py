"""Runs the notebooks, and writes them as pages with their outputs into docs/notebooks/, for the site.

    python tools/build_notebooks.py

Notebooks are kept as text in `notebooks/`, in jupytext's percent format. One that has not changed is not run
again.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "notebooks"
# What TensorFlow's C++ side says when it starts, whatever the level of its logs.
LOGS = re.compile(r"^ +(?:[IWE]\d{4} \d\d:\d\d:|WARNING: All log messages before).*\n", re.MULTILINE)


def build(source: pathlib.Path) -> None:
    """Runs a notebook and writes its page, and the pictures on it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        notebook = folder / f"{source.stem}.ipynb"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        options = {"check": True, "cwd": folder, "env": environment}
        jupytext = [sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--output", notebook, source]
        subprocess.run(jupytext, **options)
        convert = [sys.executable, "-m", "nbconvert", "--log-level=ERROR", "--execute", "--to=markdown"]
        hidden = "--TagRemovePreprocessor.remove_all_outputs_tags=skip-execution"
        subprocess.run([*convert, hidden, f"--output-dir={PAGES}", notebook], **options)
    page = PAGES / f"{source.stem}.md"
    page.write_text(LOGS.sub("", page.read_text()))


def main() -> int:
    PAGES.mkdir(exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("*.py")):
        page = PAGES / f"{source.stem}.md"
        if not page.exists() or page.stat().st_mtime < source.stat().st_mtime:
            print(f"Running {source.relative_to(ROOT)} …", flush=True)
            build(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
