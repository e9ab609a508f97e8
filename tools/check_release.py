"""Checks that what names a version, or a supported one, says the same everywhere, before a release.

python tools/check_release.py              # the tag too
python tools/check_release.py --no-tag     # before there is one
"""

from __future__ import annotations

import ast
import configparser
import datetime
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", re.MULTILINE)
UNRELEASED = re.compile(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def _first(pattern: str, path: pathlib.Path) -> str | None:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    return found and found.group(1)


def version_problems(root: pathlib.Path) -> list[str]:
    """Returns where the version, or its date, is another than in force_tf/version.py and the changelog."""
    version = _first(r'^__version__ = "(.+)"$', root / "force_tf" / "version.py")
    changelog = (root / "CHANGELOG.md").read_text()
    releases = RELEASE.findall(changelog)
    if not releases:
        return ["CHANGELOG.md has no dated release, such as `## [1.2.3] - 2026-01-31`"]
    found = []
    newest, date = releases[0]
    if newest != version:
        found.append(f"CHANGELOG.md begins with {newest}, force_tf/version.py says {version}")
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        found.append(f"CHANGELOG.md dates {newest} {date}, which is no date")
    waiting = UNRELEASED.search(changelog)
    if waiting and waiting.group(1).strip():
        found.append(
            f"CHANGELOG.md has entries under Unreleased: put them under [{newest}] if that is not out yet, or under a "
            "newer version and its date, and raise force_tf/version.py and CITATION.cff to it"
        )
    if not re.search(rf"^\[{re.escape(newest)}\]: http", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no link for [{newest}] at its end")
    citation = root / "CITATION.cff"
    for name, expected in (("version", version), ("date-released", date)):
        value = _first(rf"^{name}: (.+)$", citation)
        if value != expected:
            found.append(f"CITATION.cff says {name}: {value}, expected {expected}")
    return found


def support_problems(root: pathlib.Path) -> list[str]:
    """Returns where the supported versions of Python, TensorFlow and Keras differ from setup.cfg and compat.py."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    pythons = re.findall(r"Python :: (3\.\d+)$", config["metadata"]["classifiers"], re.MULTILINE)
    tested = re.search(r"^TESTED = (.+)$", (root / "force_tf" / "compat.py").read_text(), re.MULTILINE).group(1)
    spans = {
        package: (f"{first[0]}.{first[1]}", f"{after[0]}.{after[1] - 1}")
        for package, (first, after) in ast.literal_eval(tested).items()
    }
    said = {
        "README.md": (
            f"TensorFlow {spans['tensorflow'][0]} to {spans['tensorflow'][1]}",
            f"Keras {spans['keras'][0]} to {spans['keras'][1]}",
            f"Python {pythons[0]} to {pythons[-1]}",
        ),
        "docs/versions.md": (
            f"TensorFlow from {spans['tensorflow'][0]}",
            f"Keras from {spans['keras'][0]}",
            f"Python {pythons[0]} to {pythons[-1]}",
        ),
        ".github/workflows/ci.yml": ("python: [{}]".format(", ".join(f'"{python}"' for python in pythons)),),
    }
    found = []
    for name, sentences in said.items():
        text = re.sub(r"\s+", " ", (root / name).read_text()).replace("`", "")
        found += [f"{name} does not say {sentence!r}" for sentence in sentences if sentence not in text]
    if config["options"]["python_requires"] != f">={pythons[0]}":
        found.append(f"setup.cfg asks for Python {config['options']['python_requires']}, and lists {pythons[0]} first")
    return found


def tag_problems(root: pathlib.Path) -> list[str]:
    """Returns what keeps the present commit from being the tagged release."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return ["this is no git checkout, so that there is no tag: run it in one, or `tools/check_release.py --no-tag`"]
    version = _first(r'^__version__ = "(.+)"$', root / "force_tf" / "version.py")
    tag = f"v{version}"
    found = [f"not committed: {line}" for line in changed]
    if tag in git("tag", "--points-at", "HEAD").split():
        return found
    if tag in git("tag").split():
        return [*found, f"tag {tag} is on another commit: raise the version, or check that commit out"]
    return [*found, f"this commit has no tag {tag}: run `git tag -a {tag}` when all else passes"]


def main(arguments: list[str]) -> int:
    found = version_problems(ROOT) + support_problems(ROOT)
    if "--no-tag" not in arguments:
        found += tag_problems(ROOT)
    print("\n".join(found) if found else "Versions, changelog and documentation agree.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
