"""What is shipped, and what names versions, says the same everywhere."""

import configparser
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


check_release = tool("check_release")


@pytest.fixture
def copy(tmp_path):
    """The files that name versions, as a release of them would be."""
    names = ("README.md", "CITATION.cff", "setup.cfg", "force_tf/version.py", "force_tf/compat.py", "docs/versions.md")
    for name in (*names, ".github/workflows/ci.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "force_tf/version.py").write_text('__version__ = "3.2.1"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [3.2.1] - 2030-01-31\n\n- New.\n\n[3.2.1]: https://example.org\n"
    )
    (tmp_path / "CITATION.cff").write_text("version: 3.2.1\ndate-released: 2030-01-31\n")
    return tmp_path


def test_a_release_that_agrees_passes(copy):
    assert check_release.version_problems(copy) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("force_tf/version.py", "3.2.1", "3.2.2", "force_tf/version.py says 3.2.2"),
        ("CITATION.cff", "2030-01-31", "2030-01-30", "CITATION.cff says date-released: 2030-01-30"),
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- Forgotten.\n", "entries under Unreleased"),
        ("CHANGELOG.md", "] - 2030-01-31", "] - 2030-02-31", "which is no date"),
        ("CHANGELOG.md", "[3.2.1]: https", "[3.2.0]: https", "no link for"),
        ("CHANGELOG.md", " - 2030-01-31", "", "no dated release"),
    ],
)
def test_what_disagrees_is_named(copy, name, old, new, problem):
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    assert any(problem in line for line in check_release.version_problems(copy))


def test_the_tag_is_on_the_commit_that_is_released(copy):
    def git(*arguments):
        author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *author, *arguments], cwd=copy, check=True, capture_output=True)

    def problems():
        return check_release.tag_problems(copy)

    assert "no git checkout" in problems()[0]
    git("init")
    git("add", ".")
    git("commit", "-m", "A release")
    assert len(problems()) == 1
    assert "no tag v3.2.1: run `git tag -a v3.2.1`" in problems()[0]
    git("tag", "-a", "v3.2.1", "-m", "3.2.1")
    assert problems() == []
    git("commit", "--allow-empty", "-m", "After it")
    (copy / "new.txt").touch()
    assert problems() == ["not committed: ?? new.txt", problems()[1]]
    assert "v3.2.1 is on another commit" in problems()[1]


def test_supported_versions_are_the_same_everywhere(copy):
    assert check_release.support_problems(ROOT) == []
    text = (copy / "force_tf/compat.py").read_text()
    (copy / "force_tf/compat.py").write_text(text.replace('"keras": ((3, 8)', '"keras": ((3, 7)'))
    assert any("Keras 3.7" in line for line in check_release.support_problems(copy))


def test_hosted_checks_run_all_combinations_by_targets_of_the_makefile():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    rows = re.findall(r'combination: (\w+), python: "([\d.]+)"', workflow)
    combinations = tool("test_versions").COMBINATIONS
    assert dict(rows) == {name: combination.python for name, combination in combinations.items()}
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    runs = re.findall(r"run: (.+)", workflow)
    assert runs
    assert [run for run in runs if run.split()[0] != "make" or run.split()[1] not in targets] == []


def test_readme_stands_by_itself_on_an_index():
    text = (ROOT / "README.md").read_text()
    assert re.findall(r"\]\((?!https://)[^)]*\)", text) == [], "an index does not resolve relative links"
    references = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    home = configparser.ConfigParser()
    home.read(ROOT / "setup.cfg")
    base = f"{home['metadata']['url']}/blob/main/"
    assert references == {name: base + name for name in references}
    raw = base.replace("github.com", "raw.githubusercontent.com").replace("/blob", "")
    files = [name.partition("#")[0] for name in references] + re.findall(rf"\]\({re.escape(raw)}([^)]+)\)", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert {name for name in references if f"][{name}]" not in text} == set(), "not linked to"
    assert set(re.findall(r"\]\[([^\]]+)\]", text)) - set(references) == set()


def test_the_address_is_the_same_everywhere():
    home = configparser.ConfigParser()
    home.read(ROOT / "setup.cfg")
    owner, name = home["metadata"]["url"].removeprefix("https://github.com/").split("/")
    patterns = (rf"github(?:usercontent)?\.com/({owner}|force[\w-]*)/(\w+)", r"([\w-]+)\.github\.io/(\w+)")
    files = [ROOT / "README.md", ROOT / "mkdocs.yml", ROOT / "setup.cfg", *ROOT.glob("*.md"), *ROOT.glob("*.cff")]
    for path in (*files, *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.*")):
        if path.is_file():
            found = {each for pattern in patterns for each in re.findall(pattern, path.read_text())}
            assert found <= {(owner, name)}, path


def test_what_the_sdist_is_to_hold_is_there():
    assert [name for name in tool("check_dist").IN_SDIST if not (ROOT / name).exists()] == []
