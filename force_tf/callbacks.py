"""Callbacks for `fit`, of either Keras."""

from force_tf.training.growing_penalty import Penalty
from force_tf.training.methods import Swap
from force_tf.training.prune_during_training import PruneDuringTraining
from force_tf.training.sparsity_logger import SparsityLogger
from force_tf.training.under_masks import Draws

__all__ = ["Draws", "Penalty", "PruneDuringTraining", "SparsityLogger", "Swap"]
