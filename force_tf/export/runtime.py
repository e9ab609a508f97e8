"""The TFLite runtime: LiteRT where it is installed, or else the one that TensorFlow brings."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def interpreter(**arguments: Any) -> Any:
    """Returns a new interpreter with the default delegates; call it within `quiet`, since it announces them.

    Args:
        **arguments: What `ai_edge_litert.interpreter.Interpreter` takes.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter  # noqa: N806 (a class)
    return Interpreter(**arguments)
