"""Figures of the examples, beside those of `force_tf.plots`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import force_tf

_MARKERS = ("o", "s", "D", "^", "v")
# Inches of a panel. Panels stand one below the other: a phone shows a figure as wide as the screen.
_WIDTH, _HEIGHT = 5.2, 3.6
_MIN_PERCENT, _MIN_DIFFERENCE = 4, 1e-7  # below these, differences are chance: the axes do not show them off


def new_figure(panels: int = 1, layers: int = 0) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its axes, one below the other, with room for the names of so many layers side by side."""
    figure = Figure(figsize=(max(_WIDTH, 0.2 * layers + 1.2), _HEIGHT * panels), layout="constrained", dpi=120)
    axes = list(figure.subplots(panels, 1, squeeze=False).ravel())
    for ax in axes:
        ax.set_prop_cycle(color=force_tf.plots.COLORS)
    return figure, axes


def line_style(number: int) -> dict[str, str]:
    """Returns the colour, marker and dashes of one of up to 14 lines, for Matplotlib: no two have all three alike."""
    colors, markers = force_tf.plots.COLORS, "osD^v<>"
    color, marker = colors[number % len(colors)], markers[number % len(markers)]
    return {"color": color, "marker": marker, "linestyle": ("-", "--")[number // len(colors) % 2]}


def accuracy_figure(curves: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Plots the test accuracy, in [0, 1], after each epoch."""
    figure, (ax,) = new_figure()
    for name, accuracies in curves.items():
        percent = [100 * accuracy for accuracy in accuracies]
        # Grey takes no colour of the cycle, so that the methods have the same colours as in the plots of their masks.
        style = {"color": "0.5", "linestyle": "--"} if name == "dense" else {}
        label = f"{name} ({percent[-1]:.1f} %)"
        ax.plot(range(1, len(percent) + 1), percent, linewidth=1.8, label=label, **style)
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Test accuracy (%)")
    ax.set_title(title)
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return figure


def density_figure(masks: Mapping[str, force_tf.Masks], title: str) -> Figure:
    """Plots the fraction and the number of weights kept in each layer."""
    figure, axes = new_figure(2, layers=len(next(iter(masks.values()))))
    for ax, quantity in zip(axes, ("density", "kept")):
        force_tf.plots.plot_density(masks, quantity=quantity, ax=ax)
        if len(masks) > 1:
            ax.get_legend().remove()
    axes[0].tick_params(labelbottom=False)  # the names below the lower panel serve both
    if len(masks) > 1:
        _legend_below(figure, axes[0])
    figure.suptitle(title)
    return figure


def search_figure(histories: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Plots the density and the saliency kept after each step of the searches."""
    figure, axes = new_figure(2)
    force_tf.plots.plot_schedule(histories, ax=axes[0], title="Density")
    force_tf.plots.plot_saliency(histories, ax=axes[1], title="Saliency kept by each cut")
    figure.suptitle(title)
    return figure


def channels_figure(report: Any, title: str) -> Figure:
    """Plots the channels of each layer before and after shrinking, from what `force_tf.shrink_report` returns."""
    figure, (ax,) = new_figure(layers=len(report.layers))
    force_tf.plots.plot_channels(report, ax=ax, title=title)
    return figure


def variants_figure(variants: Sequence[Mapping[str, Any]], quality: str, title: str) -> Figure:
    """Plots what TFLite files of one network take against how good they are.

    Args:
        variants: For each file its "name"; "quantize" and "dense", which colour and marker tell; "bytes", "latency_ms"
            and the quality. None for what is not known.
        quality: "accuracy" in [0, 1], or "max_difference" of outputs.
        title: The title of the figure.
    """
    figure, axes = new_figure(2)
    axes[1].sharey(axes[0])
    in_percent = quality == "accuracy"
    if not in_percent:
        axes[0].set_yscale("symlog", linthresh=_MIN_DIFFERENCE)  # a difference may be zero
    for ax, cost, label in zip(axes, ("bytes", "latency_ms"), ("Size of the file (kB)", "Latency (ms)")):
        unit = 1000 if cost == "bytes" else 1
        for variant, style in zip(variants, _styles(variants)):
            if variant[cost] is not None and variant[quality] is not None:
                ax.plot(variant[cost] / unit, variant[quality] * (100 if in_percent else 1), **style)
        ax.set_xlabel(label)
        ax.set_ylabel("Accuracy (%)" if in_percent else "Largest difference of outputs")
        ax.set_xlim(left=0)
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    low, high = axes[0].get_ylim()
    if in_percent:
        margin = max(0, _MIN_PERCENT - (high - low)) / 2
        axes[0].set_ylim(low - margin, min(high + margin, max(high, 100)))
    else:
        axes[0].set_ylim(-_MIN_DIFFERENCE / 2, high)
    _legend_below(figure, axes[0])
    figure.suptitle(title)
    return figure


def _legend_below(figure: Figure, ax: Axes) -> None:
    """Puts the legend of some axes below all of them, where it takes no width."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def _styles(variants: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    kinds = list(dict.fromkeys(variant["quantize"] for variant in variants))
    for variant in variants:
        kind = kinds.index(variant["quantize"])
        yield {
            "marker": _MARKERS[kind],
            "color": force_tf.plots.COLORS[kind],
            "fillstyle": "none" if variant["dense"] else "full",
            "markersize": 10 - kind,  # files that are alike lie on top of each other
            "linestyle": "none",
            "label": variant["name"],
        }


def budgets_figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Plots the accuracy that is left over what each network costs, a panel for each kind of budget.

    Args:
        rows: For each network its "budget", such as "flops=0.25" or "dense"; the costs "flops", "parameters" and
            "file_bytes", and the "accuracy" in [0, 1].
        title: The title of the figure.
    """
    units = {
        "flops": ("Multiply-adds (millions)", 1e6),
        "parameters": ("Parameters (thousands)", 1e3),
        "file_bytes": ("TFLite file (kB)", 1e3),
    }
    kinds = [kind for kind in units if any(row["budget"].startswith(f"{kind}=") for row in rows)]
    figure, axes = new_figure(len(kinds))
    for ax, kind in zip(axes, kinds):
        label, unit = units[kind]
        found = [row for row in rows if row["budget"].startswith((f"{kind}=", "dense"))]
        found.sort(key=lambda row: row[kind])
        x, y = ([row[kind] / unit for row in found], [100 * row["accuracy"] for row in found])
        ax.plot(x, y, marker="o", linewidth=1.8)
        for row, *place in zip(found, x, y):
            text = row["budget"].partition("=")[2] or "dense"
            ax.annotate(text, place, (4, -12), textcoords="offset points", fontsize="small")
        ax.set_xlabel(label)
        ax.set_ylabel("Test accuracy (%)")
        ax.set_xlim(left=0)
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure
