"""Checks the wheel and the sdist in a folder, and runs the README's code on the wheel in a clean environment.

    python tools/check_dist.py dist

The environment has the package and what it requires, no extras, and nothing of the checkout is on its path.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Of each part of the project one file, without which an unpacked sdist could not be tested.
IN_SDIST = (
    *("README.md", "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml", "setup.cfg", "force_tf/py.typed"),
    *("tests/conftest.py", "tests/helpers/golden_cases.py", "tests/golden/lenet.npz", "tests/project/test_docs.py"),
    *("docs/methods.md", "docs/images/density.png", "examples/quickstart.py", "benchmarks/README.md"),
    "tools/check_dist.py",
)


def sdist_problems(path: pathlib.Path) -> list[str]:
    """Returns what is wrong with the content of an sdist, a sentence each."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    found = [f"{path.name} lacks {name}" for name in IN_SDIST if name not in names]
    return found + [f"{path.name} holds {name}" for name in sorted(names) if name.endswith(".pyc")]


def wheel_problems(path: pathlib.Path) -> list[str]:
    """Returns what is wrong with the content of a wheel, a sentence each."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    sources = {str(file.relative_to(ROOT)) for file in (ROOT / "force_tf").rglob("*.py")} | {"force_tf/py.typed"}
    found = [f"{path.name} lacks {name}" for name in sorted(sources - names)]
    strange = [name for name in names if not name.startswith("force_tf/") and ".dist-info/" not in name]
    return found + [f"{path.name} holds {name}" for name in sorted(strange)]


def install(package: pathlib.Path, folder: pathlib.Path, *options: str) -> str:
    """Installs a package into the environment in a folder, and returns the environment's Python."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, package]
    subprocess.run(command, check=True)
    return str(python)


def run_readme(python: str, folder: pathlib.Path) -> bool:
    """Runs the README's code with a Python, in a folder of its own; returns whether it passed."""
    code = "\n".join(FENCE.findall((ROOT / "README.md").read_text()))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n")
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    folder = pathlib.Path(arguments[0] if arguments else ROOT / "dist").resolve()
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        print(f"Expected one wheel and one sdist in {folder}. Received: {[path.name for path in wheels + sdists]}")
        return 2
    found = wheel_problems(wheels[0]) + sdist_problems(sdists[0])
    print("\n".join(found))
    if found:
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        clean, work = pathlib.Path(temporary, "environment"), pathlib.Path(temporary, "work")
        work.mkdir()
        print(f"Installing {wheels[0].name} into a clean environment, which takes some minutes …", flush=True)
        venv.create(clean, with_pip=True)
        python = install(wheels[0], clean)
        print("Running the README's code there …", flush=True)
        if not run_readme(python, work):
            return 1
        install(sdists[0], clean, "--force-reinstall", "--no-deps")
        code = (
            "import force_tf; print('force_tf', force_tf.__version__, 'from the sdist:', force_tf.PruneAtInit.__name__)"
        )
        return subprocess.run([python, "-c", code], cwd=work).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
