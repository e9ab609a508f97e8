"""Callbacks for `fit`, of either Keras."""

from force_tf.training.methods import Swap
from force_tf.training.prune_during_training import PruneDuringTraining
from force_tf.training.sparsity_logger import SparsityLogger

__all__ = ["PruneDuringTraining", "SparsityLogger", "Swap"]
