"""Shrinking: physically removes the channels that pruning has killed."""

from force_tf.shrinking.report import LayerChange, ShrinkReport, shrink_report
from force_tf.shrinking.shrink import shrink

__all__ = ["LayerChange", "ShrinkReport", "shrink", "shrink_report"]
