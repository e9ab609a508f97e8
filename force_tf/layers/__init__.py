"""Layers that hold masks: wrap a model, read its masks, unwrap it."""

from force_tf.layers.apply import apply_masks, get_masks, is_pruned, strip_pruning, without_masks
from force_tf.layers.keras3 import MaskedLayer
from force_tf.layers.wrappers import wrapper_class

__all__ = [
    "MaskedLayer",
    "apply_masks",
    "get_masks",
    "is_pruned",
    "strip_pruning",
    "without_masks",
    "wrapper_class",
]
