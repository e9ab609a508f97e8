"""Moves masks by every method under MirroredStrategy over two virtual CPUs; to be run in a process of its own.

Its argument is the Keras to use, `keras` or `tf_keras`.
"""

import importlib
import pathlib
import sys

from two_cpus import STRATEGY  # isort: skip (before TensorFlow starts)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from helpers.moving_conditions import METHODS, on_two_replicas

if __name__ == "__main__":
    for each in METHODS:
        on_two_replicas(importlib.import_module(sys.argv[1]), each, STRATEGY)
