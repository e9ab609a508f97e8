"""The plots show what they are given, where they are told to, and leave pyplot alone."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from force_tf import Masks, plots, schedules
from force_tf.shrinking import LayerChange, ShrinkReport

# 3 of 6 and 1 of 4 weights kept; then 2 of 6 and none.
FIRST = Masks({"conv/kernel": np.array([[1, 1, 1], [0, 0, 0]]), "dense/kernel": np.array([1, 0, 0, 0])})
SECOND = Masks({"conv/kernel": np.array([[1, 1, 0], [0, 0, 0]]), "dense/kernel": np.zeros(4)})
HISTORY = [
    {"step": 1, "density": 0.1, "saliency_kept": 0.9},
    {"step": 2, "density": 0.01, "saliency_kept": 0.6},
]

REPORT = ShrinkReport(
    model="model",
    layers=(
        LayerChange("conv", "Conv2D", 8, 3, 72, 27, None, None),
        LayerChange("logits", "Dense", 2, 2, 18, 8, None, None),
    ),
    parameters_before=90,
    parameters_after=35,
    multiply_adds_before=None,
    multiply_adds_masked=None,
    multiply_adds_after=None,
    sparsity=0.5,
    effective_sparsity=0.75,
    unknown={},
    uncounted={},
)


def values(ax):
    """The heights of each labelled line."""
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines if not line.get_label().startswith("_")}


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_density_of_each_layer():
    ax = plots.plot_density(FIRST)
    assert values(ax) == {"masks": [0.5, 0.25]}
    assert tick_labels(ax.xaxis) == ["conv", "dense"]
    assert ax.get_yscale() == "log"
    assert ax.get_legend() is None, "one mask needs no legend"


def test_number_of_weights_kept_of_several_masks():
    ax = plots.plot_density({"first": FIRST, "second": SECOND}, quantity="kept", title="Kept")
    drawn = values(ax)
    assert drawn["first"] == [3, 1]
    assert drawn["second"][0] == 2
    assert 0 < drawn["second"][1] < 1, "an empty layer lies below all others, but on the scale"
    crosses = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert len(crosses) == 1, "the empty layer is marked by a cross"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["first", "second"]
    assert ax.get_title() == "Kept"


@pytest.mark.parametrize("quantity", ["density", "kept"])
@pytest.mark.parametrize("count", [3, 7, 19, 54])
def test_names_of_layers_do_not_overlap(count, quantity):
    masks = Masks({f"conv{i}_block{i}_{i % 3}_conv/kernel": np.arange(8) <= i for i in range(count)})
    ax = plots.plot_density({"one": masks, "other": masks}, quantity=quantity)
    ax.figure.canvas.draw()
    labels = ax.xaxis.get_ticklabels()
    assert len(labels) == count
    places = [ax.transData.transform((tick, 1))[0] for tick in ax.get_xticks()]
    for label, place, following in zip(labels, places, places[1:]):
        # Parallel lines of text at an angle: so far they are apart, and so high they are.
        apart = (following - place) * np.sin(np.radians(label.get_rotation()))
        height = label.get_fontsize() * ax.figure.dpi / 72
        width = label.get_window_extent().width
        assert apart >= height or following - place > width, f"{label.get_text()!r} runs into the next label"


def test_lines_are_told_apart_by_colour_and_by_marker():
    ax = plots.plot_density(dict.fromkeys("abcdefg", FIRST))
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 7


def test_schedules_without_a_search():
    planned = schedules.densities(schedules.linear, steps=2, density=0.5)
    ax = plots.plot_schedule({"planned": planned, "found": HISTORY})
    assert values(ax) == {"planned": [1.0, 0.75, 0.5], "found": [1.0, 0.1, 0.01]}


def test_markers_of_equal_lines_do_not_hide_each_other():
    history = [{"step": step, "density": 0.9**step, "saliency_kept": 0.5} for step in range(1, 61)]
    for draw in (plots.plot_schedule, plots.plot_saliency):
        first, second = draw({"first": history, "second": history}).lines
        marked = [
            set(range(len(line.get_xdata()))[slice(line.get_markevery()[0], None, line.get_markevery()[1])])
            for line in (first, second)
        ]
        assert marked[0]
        assert not marked[0] & marked[1]
        assert first.get_linestyle() != second.get_linestyle()


def test_schedule_starts_dense():
    ax = plots.plot_schedule(HISTORY)
    (line,) = ax.lines
    assert list(line.get_xdata()) == [0, 1, 2]
    assert list(line.get_ydata()) == [1.0, 0.1, 0.01]


def test_saliency_of_several_searches():
    ax = plots.plot_saliency({"snip": HISTORY[:1], "force": HISTORY})
    assert values(ax) == {"snip": [0.9], "force": [0.9, 0.6]}


def test_overlap_is_intersection_over_union():
    ax = plots.plot_overlap({"first": FIRST, "second": SECOND})
    # Both keep the first 2 weights; either keeps 4: 3 of conv, 1 of dense.
    np.testing.assert_allclose(ax.images[0].get_array(), [[1, 0.5], [0.5, 1]])
    assert sorted(text.get_text() for text in ax.texts) == ["0.50", "0.50", "1.00", "1.00"]


def test_channels_before_and_after_shrinking():
    ax = plots.plot_channels(REPORT, title="Shrunk")
    before, after = ax.containers
    assert [bar.get_height() for bar in before] == [8, 2]
    assert [bar.get_height() for bar in after] == [3, 2]
    assert after[0].get_zorder() >= before[0].get_zorder(), "drawn later, in front of those before"
    assert tick_labels(ax.xaxis) == ["conv", "logits"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]
    assert ax.get_title() == "Shrunk"


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.plot_density(FIRST, ax=ax),
        lambda ax: plots.plot_schedule(HISTORY, ax=ax),
        lambda ax: plots.plot_saliency(HISTORY, ax=ax),
        lambda ax: plots.plot_overlap({"first": FIRST}, ax=ax),
        lambda ax: plots.plot_channels(REPORT, ax=ax),
    ],
    ids=["density", "schedule", "saliency", "overlap", "channels"],
)
def test_draws_into_given_axes_and_saves(draw, tmp_path):
    given = Figure().subplots()
    assert draw(given) is given
    own = draw(None)
    assert own is not given
    own.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.plot_density([FIRST]), TypeError, "Expected Masks"),
        (lambda: plots.plot_density({}), TypeError, "Expected Masks"),
        (lambda: plots.plot_density(FIRST, quantity="size"), ValueError, "density, kept.*Received: 'size'"),
        (lambda: plots.plot_schedule([]), TypeError, "has searched"),
        (lambda: plots.plot_saliency([{"step": 1}]), TypeError, "`history`"),
        (lambda: plots.plot_saliency([0.5, 0.1]), TypeError, "`history`"),
        (lambda: plots.plot_channels(FIRST), TypeError, "shrink_report"),
        (lambda: plots.plot_overlap({"a": FIRST, "b": Masks({"other": [1]})}), ValueError, "same weights"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_figures_are_not_registered_with_pyplot():
    before = pyplot.get_fignums()
    plots.plot_density(FIRST)
    plots.plot_overlap({"first": FIRST})
    assert pyplot.get_fignums() == before, "pyplot would keep these figures alive, and show them"


def test_the_package_works_without_matplotlib_and_says_what_is_missing():
    code = """
import sys
sys.modules["matplotlib"] = None  # any import of it fails
import force_tf
try:
    force_tf.plots.plot_density(force_tf.Masks({"a": [1, 0]}))
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'force_tf[plots]'" in result.stdout, result.stdout + result.stderr


def test_notebooks_show_a_figure():
    assert plots.plot_density(FIRST).figure._repr_png_().startswith(b"\x89PNG")
