"""Prunes Keras networks at initialization, trains what is left, and exports it to TFLite.

The wrappers are imported with the package, since Keras must know them to load a file. All other names are imported when
they are first used.
"""

from __future__ import annotations

from force_tf.compat import check_versions

check_versions()  # before anything below relies on them

import importlib  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from force_tf.layers import MaskedLayer, apply_masks, get_masks, strip_pruning  # noqa: E402
from force_tf.support import old_paths  # noqa: E402
from force_tf.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from force_tf import callbacks, channels, criteria, plots, schedules
    from force_tf.budget import Budget
    from force_tf.cost.flops import count_flops
    from force_tf.export import benchmark_tflite, check_tflite, evaluate_tflite, export_tflite, sparse_kernel_layers
    from force_tf.masks import Masks
    from force_tf.models.collapse import CollapsedError, ConstantOutputWarning, LayerCollapseWarning
    from force_tf.models.layer_kinds import register_layer, register_prunable
    from force_tf.models.redraw import redraw_weights
    from force_tf.search.prune_at_init import PruneAtInit
    from force_tf.search.zero_scores import ZeroScoresWarning
    from force_tf.shrinking import shrink, shrink_report
    from force_tf.tickets.find_ticket import find_ticket
    from force_tf.tickets.ticket import Ticket

__all__ = [
    "Budget",
    "CollapsedError",
    "ConstantOutputWarning",
    "LayerCollapseWarning",
    "MaskedLayer",
    "Masks",
    "PruneAtInit",
    "Ticket",
    "ZeroScoresWarning",
    "__version__",
    "apply_masks",
    "benchmark_tflite",
    "callbacks",
    "check_tflite",
    "channels",
    "count_flops",
    "criteria",
    "evaluate_tflite",
    "export_tflite",
    "find_ticket",
    "get_masks",
    "plots",
    "redraw_weights",
    "register_layer",
    "register_prunable",
    "schedules",
    "shrink",
    "shrink_report",
    "sparse_kernel_layers",
    "strip_pruning",
]

# Where the names are that are imported on first use; a name that is missing here is a module of this package.
_HOMES = {
    "Budget": "force_tf.budget",
    "CollapsedError": "force_tf.models.collapse",
    "ConstantOutputWarning": "force_tf.models.collapse",
    "LayerCollapseWarning": "force_tf.models.collapse",
    "Masks": "force_tf.masks",
    "PruneAtInit": "force_tf.search.prune_at_init",
    "Ticket": "force_tf.tickets.ticket",
    "ZeroScoresWarning": "force_tf.search.zero_scores",
    "benchmark_tflite": "force_tf.export",
    "check_tflite": "force_tf.export",
    "count_flops": "force_tf.cost.flops",
    "evaluate_tflite": "force_tf.export",
    "export_tflite": "force_tf.export",
    "find_ticket": "force_tf.tickets.find_ticket",
    "redraw_weights": "force_tf.models.redraw",
    "register_layer": "force_tf.models.layer_kinds",
    "register_prunable": "force_tf.models.layer_kinds",
    "shrink": "force_tf.shrinking",
    "shrink_report": "force_tf.shrinking",
    "sparse_kernel_layers": "force_tf.export",
}


if not TYPE_CHECKING:  # a checker would take any name for one that there is

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            value = importlib.import_module(f"{__name__}.{name}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


old_paths.keep_loading()
