"""Prunes Keras networks at initialization, trains what is left, and exports it to TFLite."""

from force_tf.compat import check_versions

check_versions()

from force_tf.masks import Masks  # noqa: E402 (the versions are checked before anything relies on them)
from force_tf.version import __version__  # noqa: E402

__all__ = ["Masks", "__version__"]
