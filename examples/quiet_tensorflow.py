"""Imports TensorFlow without its messages to developers; import this before `tensorflow` and `keras`.

TensorFlow greets with lines about CUDA, oneDNN and CPU features before its own log level takes effect, so that
`TF_CPP_MIN_LOG_LEVEL` alone does not keep them from the terminal. Set that variable to 0 to see all messages.
"""

from __future__ import annotations

import os
import sys
import tempfile

from absl import logging


def _import_quietly() -> None:
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for GPUs, which has messages of its own
            tf.get_logger().setLevel("ERROR")
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())  # what was held back may say why it failed
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") not in ("0", "1"):
    logging.set_verbosity(logging.ERROR)  # of TensorFlow Datasets, and of TensorFlow's advice on retracing
    _import_quietly()
