"""Shrinking: physically removes the channels that pruning has killed."""

from force_tf.shrink.shrink import shrink

__all__ = ["shrink"]
