"""Plots of masks and of searches for masks.

Every function draws into the Matplotlib axes that it is given, or into a new figure that pyplot does not know of, and
returns the axes: `plot_density(masks).figure.savefig("density.png")`. Matplotlib is an optional dependency, imported
when a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from force_tf.masks import Masks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_density", "plot_overlap", "plot_saliency", "plot_schedule"]

History = Sequence[Mapping[str, Any]]

_MARKERS = "osD^vPX*"
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
    ax = _axes(ax, width=max(6.4, 0.45 * len(paths) + 2))
    for number, (name, row) in enumerate(values.items()):
        offset = 0.12 * (number - (len(values) - 1) / 2)  # so that equal values do not hide each other
        x = np.arange(len(paths)) + offset
        height = np.maximum(row, floor)
        marker = _MARKERS[number % len(_MARKERS)]
        (line,) = ax.plot(x, height, marker=marker, markersize=6, linewidth=1, alpha=0.9, label=name)
        empty = np.equal(row, 0)
        ax.plot(x[empty], height[empty], "x", color=line.get_color(), markersize=11, markeredgewidth=2)
    ax.set_yscale("log")
    if quantity == "density":
        _percent_ticks(ax)
    ax.set_xticks(range(len(paths)), _short(paths), rotation=45 if len(paths) > 4 else 0, ha=_align(paths))
    ax.set_ylabel(_QUANTITIES[quantity])
    return _finish(ax, title, legend=len(values) > 1)


def plot_schedule(
    histories: Mapping[str, History] | History, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Plots the density after each step of a search, on a logarithmic scale.

    Args:
        histories: `PruneAtInit.history`, or a mapping from the names in the legend to several of them.
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
    ax = force_tf.plots.plot_schedule(pruner.history)
    ```
    """
    histories = _named_histories(histories, "density")
    ax = _axes(ax)
    for number, (name, history) in enumerate(histories.items()):
        steps = [0, *(row["step"] for row in history)]
        densities = [1.0, *(row["density"] for row in history)]
        marker = _MARKERS[number % len(_MARKERS)]
        ax.plot(steps, densities, marker=marker, markersize=4, linewidth=1.5, label=name)
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
        ax.plot(steps, kept, marker=_MARKERS[number % len(_MARKERS)], markersize=4, linewidth=1.5, label=name)
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
    named = histories if isinstance(histories, Mapping) else {"history": histories}
    for history in named.values():
        if not isinstance(history, Sequence) or not history or not all(column in row for row in history):
            raise TypeError(
                "Expected the `history` of a PruneAtInit that has searched, or a mapping from names to such. "
                f"Received: {histories!r}"
            )
    return dict(named)


def _per_tensor(masks: Masks, quantity: str) -> list[float]:
    return [masks.density(path) if quantity == "density" else int(np.count_nonzero(masks[path])) for path in masks]


def _short(paths: list[str]) -> list[str]:
    """Drops the `/kernel` that all paths of most models end in."""
    return [path.removesuffix("/kernel") for path in paths]


def _align(paths: list[str]) -> str:
    return "right" if len(paths) > 4 else "center"


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
