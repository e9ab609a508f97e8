"""The documentation site: every public name has its place in the reference, and pages show as they should."""

import importlib
import importlib.util
import inspect
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MODULES = ("", "callbacks", "channels", "criteria", "layers", "plots", "schedules")


def public_names():
    """Yields the full name of what is public, and the thing, functions and classes alone."""
    for module in MODULES:
        module = importlib.import_module(f"force_tf.{module}".rstrip("."))
        for name in module.__all__:
            thing = getattr(module, name)
            if name != "__version__" and not inspect.ismodule(thing):
                yield f"{module.__name__}.{name}", thing


def test_the_reference_holds_every_public_name():
    pages = "".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    documented = set(re.findall(r"^::: (\S+)|heading: (force_tf\.[\w.]+)|^`\w+` is \[`(\S+)`\]", pages, re.MULTILINE))
    documented = {name for names in documented for name in names if name}
    top = {name.rpartition(".")[2] for name in documented if name.count(".") == 1}
    missing = [name for name, _ in public_names() if name not in documented and name.rpartition(".")[2] not in top]
    assert missing == []


def test_public_names_are_described_with_their_arguments():
    lacking = []
    for name, thing in public_names():
        if not (inspect.isfunction(thing) or (inspect.isclass(thing) and not issubclass(thing, Exception))):
            continue
        text = inspect.getdoc(thing) or ""
        if not text:
            lacking.append(f"{name} has no docstring")
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            # Schedules share one signature, which the module's docstring explains.
            if not name.startswith("force_tf.schedules."):
                lacking += [
                    f"{name}: {parameter}"
                    for parameter in signature.parameters
                    if not re.search(rf"^ +\**{parameter}: ", text, re.MULTILINE)
                ]
            returns = signature.return_annotation not in ("None", None)
            if returns and not re.search(r"Returns|Yields|\breturns\b", text):
                lacking.append(f"{name}: what it returns")
    assert lacking == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/]+\.md)$", navigation, re.MULTILINE))
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.py")}
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | notebooks
    assert listed == pages


@pytest.fixture(scope="module")
def look():
    spec = importlib.util.spec_from_file_location("look_at_site", ROOT / "tools" / "look_at_site.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["look_at_site"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_faults_of_pages_are_seen(look, tmp_path):
    program = look.find_chromium()
    if program is None:
        pytest.skip("no Chromium")
    pages = {
        "right": "<p>As it should be.</p>",
        "wide": '<div style="width: 700px">Wider than a phone, not than a desktop.</div>',
        "error": "<script>throw new Error('broken')</script>",
        "missing": '<img src="nowhere.png">',
    }
    for name, body in pages.items():
        (tmp_path / name).mkdir()
        head = '<!doctype html><link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">'
        (tmp_path / name / "index.html").write_text(head + body)
    found = look.look(tmp_path, program)
    assert [line for line in found if line.startswith("/right/")] == []
    assert [line for line in found if line.startswith("/wide/")] == [
        "/wide/ at the width of a phone: 318 pixels wider than the screen"
    ]
    assert len([line for line in found if line.startswith("/error/") and "a script fails" in line]) == 2
    assert any(line.startswith("/missing/") and "does not show" in line for line in found)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_shows(look, tmp_path, monkeypatch):
    config = pytest.importorskip("mkdocs.config")
    missing = [path for path in (ROOT / "notebooks").glob("*.py") if not (DOCS / f"notebooks/{path.stem}.md").exists()]
    if missing:
        pytest.skip("`make notebooks` has not run, whose pages belong to the site")
    from mkdocs.commands.build import build

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))  # raises on warnings
    program = look.find_chromium()
    if program is not None:
        assert look.look(tmp_path, program) == []
