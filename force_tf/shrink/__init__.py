"""Shrinking: physically removes the channels that pruning has killed."""

from force_tf.shrink.report import LayerChange, ShrinkReport, shrink_report
from force_tf.shrink.shrink import shrink

__all__ = ["LayerChange", "ShrinkReport", "shrink", "shrink_report"]
