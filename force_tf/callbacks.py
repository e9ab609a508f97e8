"""Callbacks for `fit`, of either Keras."""

from force_tf.training.sparsity_logger import SparsityLogger

__all__ = ["SparsityLogger"]
