"""The plots, one function each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from force_tf.masks import Masks
from force_tf.plots import axes as plot_axes
from force_tf.plots.axes import COLORS, MARKERS
from force_tf.shrinking.report import ShrinkReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, Any]]

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
    ax = plot_axes.layer_axes(ax, len(paths))
    for number, (name, row) in enumerate(values.items()):
        offset = 0.12 * (number - (len(values) - 1) / 2)  # so that equal values do not hide each other
        x = np.arange(len(paths)) + offset
        height = np.maximum(row, floor)
        style = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        ax.plot(x, height, **style, markersize=6, linewidth=1, alpha=0.9, label=name)
        empty = np.equal(row, 0)
        ax.plot(x[empty], height[empty], "x", color=style["color"], markersize=11, markeredgewidth=2)
    ax.set_yscale("log")
    if quantity == "density":
        plot_axes.percent_ticks(ax)
    ax.margins(x=0.02)
    plot_axes.layer_ticks(ax, paths)
    ax.set_ylabel(_QUANTITIES[quantity])
    return plot_axes.finish(ax, title, legend=len(values) > 1)


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
    ax = plot_axes.new_axes(ax)
    for number, (name, history) in enumerate(histories.items()):
        steps = [0, *(row["step"] for row in history)]
        plot_axes.plot_steps(ax, number, steps, [1.0, *(row["density"] for row in history)], name)
    ax.set_yscale("log")
    plot_axes.percent_ticks(ax)
    ax.set_xlabel("Step")
    ax.set_ylabel("Weights kept")
    return plot_axes.finish(ax, title, legend=len(histories) > 1)


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
    ax = plot_axes.new_axes(ax)
    for number, (name, history) in enumerate(histories.items()):
        steps, kept = zip(*((row["step"], row["saliency_kept"]) for row in history))
        plot_axes.plot_steps(ax, number, steps, kept, name)
    ax.set_xlabel("Step")
    ax.set_ylabel("Share of the saliency kept")
    return plot_axes.finish(ax, title, legend=len(histories) > 1)


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
    ax = plot_axes.new_axes(ax, width=side + 0.8, height=side)
    image = ax.imshow(overlap, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in np.ndenumerate(overlap):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    ax.set_xticks(range(len(masks)), list(masks), rotation=45, ha="right")
    ax.set_yticks(range(len(masks)), list(masks))
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="Intersection over union")
    if title:
        ax.set_title(title)
    return ax


def plot_channels(report: ShrinkReport, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Plots how many channels each layer had, and how many shrinking has left.

    Args:
        report: What `force_tf.shrink_report` returned.
        ax: Where to draw. None: a new figure.
        title: The title of the axes.

    Returns:
        The Matplotlib axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `report` is no `ShrinkReport`.

    Example:

    ```python
    report = force_tf.shrink_report(pruned, force_tf.shrink(pruned))
    force_tf.plots.plot_channels(report).figure.savefig("channels.png")
    ```
    """
    if not isinstance(report, ShrinkReport):
        raise TypeError(f"Expected what `shrink_report` returns. Received: {report!r}")
    ax = plot_axes.layer_axes(ax, len(report.layers))
    x = range(len(report.layers))
    ax.bar(x, [layer.channels_before for layer in report.layers], color="0.85", label="before")
    ax.bar(x, [layer.channels_after for layer in report.layers], color=COLORS[0], label="after")
    ax.margins(x=0.02)
    plot_axes.layer_ticks(ax, [layer.path for layer in report.layers])
    ax.set_ylabel("Channels")
    return plot_axes.finish(ax, title, legend=True)


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
