"""Plots of masks and of searches for masks.

Every function draws into the Matplotlib axes that it is given, or into a new figure that pyplot does not know of, and
returns the axes: `plot_density(masks).figure.savefig("density.png")`. Matplotlib is an optional dependency, imported
when a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from force_tf.masks import Masks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLORS", "plot_density", "plot_overlap", "plot_saliency", "plot_schedule"]

#: The colours of the lines, in order, which colour-blind readers can tell apart (by Okabe and Ito, without the yellow).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")

History = Sequence[Mapping[str, Any]]

# Colours, markers and dashes together tell lines apart where they cross or lie on each other.
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", "-.", ":")
_FONT_SIZE = 10  # points
_QUANTITIES = {"density": "Part of the layer's weights kept", "kept": "Number of weights kept"}


def plot_density(
    masks: Masks | Mapping[str, Masks], *, quantity: str = "density", ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Plots how many weights of each layer are kept, on a logarithmic scale, for one or several masks side by side.

    A layer that lost every weight is marked by a cross at the bottom.

    Args:
        masks: Masks, or a mapping from the names in the legend to the masks of one model.
        quantity: "density" for the fraction of weights kept, "kept" for their number.
        ax: Where to draw. None: a new figure.
        title: The title of the axes.

    Returns:
        The Matplotlib axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `masks` are no masks.
        ValueError: If `quantity` is unknown, or the masks are not for the same weights.

    Example:

    ```python
    ax = force_tf.plots.plot_density({"SNIP": snip_masks, "FORCE": force_masks})
    ax.figure.savefig("density.png")
    ```
    """
    masks = _named_masks(masks)
    if quantity not in _QUANTITIES:
        raise ValueError(f"Expected `quantity` to be one of {', '.join(_QUANTITIES)}. Received: {quantity!r}")
    paths = list(next(iter(masks.values())))
    values = {name: _per_tensor(m, quantity) for name, m in masks.items()}
    present = [value for row in values.values() for value in row if value > 0]
    floor = min(present, default=1.0) / 3  # where there is nothing, a logarithmic scale has no place
    many = max(len(paths) - 20, 0)  # layers beyond those whose names have room at an angle
    ax = _axes(ax, width=max(6.4, 0.45 * (len(paths) - many) + 0.2 * many + 2), height=4.0 + min(many, 1))
    for number, (name, row) in enumerate(values.items()):
        offset = 0.12 * (number - (len(values) - 1) / 2)  # so that equal values do not hide each other
        x = np.arange(len(paths)) + offset
        height = np.maximum(row, floor)
        style = {"color": COLORS[number % len(COLORS)], "marker": _MARKERS[number % len(_MARKERS)]}
        ax.plot(x, height, **style, markersize=6, linewidth=1, alpha=0.9, label=name)
        empty = np.equal(row, 0)
        ax.plot(x[empty], height[empty], "x", color=style["color"], markersize=11, markeredgewidth=2)
    ax.set_yscale("log")
    if quantity == "density":
        _percent_ticks(ax)
    ax.margins(x=0.02)
    _layer_ticks(ax, paths)
    ax.set_ylabel(_QUANTITIES[quantity])
    return _finish(ax, title, legend=len(values) > 1)


def plot_schedule(
    histories: Mapping[str, History | Sequence[float]] | History | Sequence[float],
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Plots the density after each step of a search, or as scheduled, on a logarithmic scale.

    Args:
        histories: `PruneAtInit.history`, or the densities of all steps as `force_tf.schedules.densities` returns them;
            or a mapping from the names in the legend to several of these.
        ax: Where to draw. None: a new figure.
        title: The title of the axes.

    Returns:
        The Matplotlib axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `histories` are no histories.

    Example:

    ```python
    pruner.find_masks(model, data)
    planned = force_tf.schedules.densities(force_tf.schedules.linear, steps=60, density=0.01)
    ax = force_tf.plots.plot_schedule({"FORCE": pruner.history, "linear": planned})
    ```
    """
    histories = _named_histories(histories, "density")
    ax = _axes(ax)
    for number, (name, history) in enumerate(histories.items()):
        steps = [0, *(row["step"] for row in history)]
        _plot_steps(ax, number, steps, [1.0, *(row["density"] for row in history)], name)
    ax.set_yscale("log")
    _percent_ticks(ax)
    ax.set_xlabel("Step")
    ax.set_ylabel("Weights kept")
    return _finish(ax, title, legend=len(histories) > 1)


def plot_saliency(
    histories: Mapping[str, History] | History, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Plots the share of the saliency that each step of a search kept.

    Args:
        histories: `PruneAtInit.history`, or a mapping from the names in the legend to several of them.
        ax: Where to draw. None: a new figure.
        title: The title of the axes.

    Returns:
        The Matplotlib axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `histories` are no histories.
    """
    histories = _named_histories(histories, "saliency_kept")
    ax = _axes(ax)
    for number, (name, history) in enumerate(histories.items()):
        steps, kept = zip(*((row["step"], row["saliency_kept"]) for row in history))
        _plot_steps(ax, number, steps, kept, name)
    ax.set_xlabel("Step")
    ax.set_ylabel("Share of the saliency kept")
    return _finish(ax, title, legend=len(histories) > 1)


def plot_overlap(masks: Mapping[str, Masks], *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Plots how far masks agree: the intersection over union of the kept weights of each pair.

    Args:
        masks: Mapping from a name to the masks of one model.
        ax: Where to draw. None: a new figure.
        title: The title of the axes.

    Returns:
        The Matplotlib axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `masks` are no masks.
        ValueError: If the masks are not for the same weights.
    """
    masks = _named_masks(masks)
    overlap = np.array([[a.intersection_over_union(b) for b in masks.values()] for a in masks.values()])
    side = 2.5 + 0.6 * len(masks)
    ax = _axes(ax, width=side + 0.8, height=side)
    image = ax.imshow(overlap, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in np.ndenumerate(overlap):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    ax.set_xticks(range(len(masks)), list(masks), rotation=45, ha="right")
    ax.set_yticks(range(len(masks)), list(masks))
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="Intersection over union")
    if title:
        ax.set_title(title)
    return ax


def _named_masks(masks: Any) -> dict[str, Masks]:
    masks = {"masks": masks} if isinstance(masks, Masks) else masks
    if not isinstance(masks, Mapping) or not masks or not all(isinstance(m, Masks) for m in masks.values()):
        raise TypeError(f"Expected Masks, or a mapping from names to Masks. Received: {masks!r}")
    first, *others = masks.values()
    for other in others:
        difference = first.first_difference({path: mask.shape for path, mask in other.items()})
        if difference:
            raise ValueError(f"Expected masks for the same weights. Received masks that differ: {difference}")
    return dict(masks)


def _named_histories(histories: Any, column: str) -> dict[str, History]:
    named = dict(histories) if isinstance(histories, Mapping) else {"history": histories}
    for name, history in named.items():
        if isinstance(history, Sequence) and column == "density" and all(isinstance(d, Real) for d in history):
            named[name] = history = [{"step": step, "density": density} for step, density in enumerate(history, 1)]
        rows = history if isinstance(history, Sequence) else ()
        if not rows or not all(isinstance(row, Mapping) and column in row for row in rows):
            raise TypeError(
                "Expected the `history` of a PruneAtInit that has searched, or a mapping from names to such. "
                f"Received: {histories!r}"
            )
    return named


def _per_tensor(masks: Masks, quantity: str) -> list[float]:
    return [masks.density(path) if quantity == "density" else int(np.count_nonzero(masks[path])) for path in masks]


def _layer_ticks(ax: Axes, paths: list[str]) -> None:
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


def _plot_steps(ax: Axes, number: int, steps: Sequence[int], values: Sequence[float], label: str) -> None:
    """Draws the line of one of several searches: a marker here and there, and not where the others have theirs."""
    apart = max(1, len(steps) // 10)
    ax.plot(
        steps,
        values,
        color=COLORS[number % len(COLORS)],
        linestyle=_DASHES[number % len(_DASHES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markevery=(3 * number % apart, apart),
        markersize=5,
        linewidth=1.5,
        label=label,
    )


def _axes(ax: Axes | None, width: float = 6.4, height: float = 4.0) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "Expected Matplotlib, which draws the plots; install it with `pip install 'force_tf[plots]'`. "
            "Received: no module named 'matplotlib'."
        ) from None
    return Figure(figsize=(width, height), layout="constrained", dpi=120).subplots()


def _percent_ticks(ax: Axes) -> None:
    from matplotlib.ticker import LogFormatter

    class LogPercent(LogFormatter):
        def __call__(self, value, position=None):
            # The base class says which of the ticks between the powers of ten there is room to label.
            return f"{100 * value:g} %" if super().__call__(value, position) else ""

    ax.yaxis.set_major_formatter(LogPercent())
    ax.yaxis.set_minor_formatter(LogPercent())


def _finish(ax: Axes, title: str | None, legend: bool) -> Axes:
    ax.grid(axis="y", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title)
    if legend:
        # Beside the axes: within, it would hide points of one layer or another.
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return ax
