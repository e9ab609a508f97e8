"""The code in the README and in docs/ runs as it stands, and links lead somewhere."""

import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


@pytest.mark.parametrize("page", [page for page in PAGES if FENCE.search(page.read_text())], ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # One namespace a page: later snippets go on where earlier ones stopped.
    source = "\n".join(FENCE.findall(page.read_text()))
    exec(compile(source, str(page), "exec"), {"__name__": "__main__"})
    if page.name == "README.md":
        assert {"model.tflite", "masks.npz", "pruned.keras"} <= set(os.listdir(tmp_path))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken, f"{page.name} links to {broken}"


def test_methods_page_describes_every_method():
    from force_tf.search.presets import PRESETS

    text = (ROOT / "docs" / "methods.md").read_text()
    assert [method for method in PRESETS if f'`"{method}"`' not in text] == []
