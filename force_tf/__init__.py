"""Prunes Keras networks at initialization, trains what is left, and exports it to TFLite."""

from force_tf.compat import check_versions

check_versions()  # before anything below relies on them

from force_tf import callbacks, channels, criteria, plots, schedules  # noqa: E402
from force_tf.cost.flops import count_flops  # noqa: E402
from force_tf.export import benchmark_tflite, check_tflite, evaluate_tflite, export_tflite  # noqa: E402
from force_tf.layers import MaskedLayer, apply_masks, get_masks, strip_pruning  # noqa: E402
from force_tf.masks import Masks  # noqa: E402
from force_tf.models.collapse import CollapsedError, ConstantOutputWarning, LayerCollapseWarning  # noqa: E402
from force_tf.models.layer_kinds import register_layer, register_prunable  # noqa: E402
from force_tf.search.prune_at_init import PruneAtInit  # noqa: E402
from force_tf.search.zero_scores import ZeroScoresWarning  # noqa: E402
from force_tf.shrinking import shrink, shrink_report  # noqa: E402
from force_tf.support import old_paths  # noqa: E402
from force_tf.version import __version__  # noqa: E402

__all__ = [
    "CollapsedError",
    "ConstantOutputWarning",
    "LayerCollapseWarning",
    "MaskedLayer",
    "Masks",
    "PruneAtInit",
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
    "get_masks",
    "plots",
    "register_layer",
    "register_prunable",
    "schedules",
    "shrink",
    "shrink_report",
    "strip_pruning",
]

old_paths.keep_loading()
