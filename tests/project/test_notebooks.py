"""The notebooks run from top to bottom, in small settings."""

import pathlib
import re

import matplotlib
import pytest
from matplotlib import pyplot

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What takes the place of the cell tagged "parameters".
SMALL = {
    "quickstart": "EPOCHS, STEPS = 1, 3",
    "from_tfmot": "EPOCHS = 4",
    "budget_to_phone": 'EPOCHS, STEPS, LIMITS, SHARES = 1, 2, {"parameters": 0.5}, (0.5,)',
    "compare_methods": 'EPOCHS, SEEDS, METHODS = 1, (0,), ("random", "snip")',
}
SLOW = ("budget_to_phone", "compare_methods")
CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)


def cells(path):
    """Yields the options and the text of every cell."""
    parts = CELL.split(path.read_text())
    assert not parts[0].strip(), "there is something before the first cell"
    yield from zip(parts[1::2], parts[2::2])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # so little training, so few steps
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))
        for path in sorted((ROOT / "notebooks").glob("*.py"))
    ],
)
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    namespace, replaced = {"__name__": "__main__"}, 0
    for options, text in cells(ROOT / "notebooks" / f"{name}.py"):
        if "parameters" in options:
            text, replaced = SMALL[name], replaced + 1
        exec(compile(text, f"{name}.py", "exec"), namespace)
    assert replaced == 1


@pytest.mark.parametrize("name", list(SMALL))
def test_notebook_installs_first(name):
    code = [(options, text) for options, text in cells(ROOT / "notebooks" / f"{name}.py") if "markdown" not in options]
    options, text = code[0]
    # It is not run where pages are built from a checkout.
    assert "skip-execution" in options
    assert '# %pip install -q "force_tf[' in text
