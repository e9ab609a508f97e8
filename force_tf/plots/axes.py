"""What the plots share: axes, colours, lines, ticks and legends."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The colours of the lines, in order, which colour-blind readers can tell apart (by Okabe and Ito, without the yellow).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
# Colours, markers and dashes together tell lines apart where they cross or lie on each other.
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":")
_FONT_SIZE = 10  # points
# Inches of a new figure, so small that a phone, which shows it as wide as the screen, leaves its letters legible.
_WIDTH, _HEIGHT = 5.2, 3.6


def layer_ticks(ax: Axes, paths: list[str]) -> None:
    """Labels the layers below the axes, turned and sized so that the labels have room."""
    labels = [path.removesuffix("/kernel") for path in paths]  # which all paths of most models end in
    # In points, of which a letter is about 0.6 times as wide as it is high. The legend takes a little of the width.
    room = 72 * 0.9 * ax.get_position().width * ax.figure.get_size_inches()[0] / len(labels)
    if room > 0.65 * _FONT_SIZE * max(map(len, labels)):
        turned = {"rotation": 0, "ha": "center"}
    elif room > 2 * _FONT_SIZE:
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    else:
        turned = {"rotation": 90, "ha": "center"}
    ax.set_xticks(range(len(labels)), labels, fontsize=min(_FONT_SIZE, 0.9 * room), **turned)


def plot_steps(ax: Axes, number: int, steps: Sequence[int], values: Sequence[float], label: str) -> None:
    """Draws the line of one of several searches: a marker here and there, and not where the others have theirs."""
    apart = max(1, len(steps) // 10)
    ax.plot(
        steps,
        values,
        color=COLORS[number % len(COLORS)],
        linestyle=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)],
        markevery=(3 * number % apart, apart),
        markersize=5,
        linewidth=1.5,
        label=label,
    )


def new_axes(ax: Axes | None, width: float = _WIDTH, height: float = _HEIGHT) -> Axes:
    """Returns the axes that are given, or those of a new figure of so many inches that pyplot does not know of."""
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "Expected Matplotlib, which draws the plots; install it with `pip install 'force_tf[plots]'`. "
            "Received: no module named 'matplotlib'."
        ) from None

    class NotebookFigure(Figure):
        """A figure that notebooks show where a cell ends with it, which needs no pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return NotebookFigure(figsize=(width, height), layout="constrained", dpi=120).subplots()


def layer_axes(ax: Axes | None, layers: int) -> Axes:
    """Returns the axes that are given, or new ones with room for so many layers side by side."""
    # Names of many layers stand upright, one beside the other, and take some of the height.
    return new_axes(ax, width=max(_WIDTH, 0.2 * layers + 1.8), height=_HEIGHT + min(0.1 * max(layers - 8, 0), 1.2))


def percent_ticks(ax: Axes) -> None:
    """Labels a logarithmic y axis of fractions in percent."""
    from matplotlib.ticker import LogFormatter

    class LogPercent(LogFormatter):
        def __call__(self, value, position=None):
            # The base class says which of the ticks between the powers of ten there is room to label.
            return f"{100 * value:g} %" if super().__call__(value, position) else ""

    ax.yaxis.set_major_formatter(LogPercent())
    ax.yaxis.set_minor_formatter(LogPercent())


def finish(ax: Axes, title: str | None, legend: bool) -> Axes:
    """Adds what all plots with lines or bars have: a grid, a title and a legend beside them."""
    ax.grid(axis="y", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title)
    if legend:
        # Beside the axes: within, it would hide points of one layer or another.
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return ax
