"""Names of modules from before they moved, so that users' pickles of what is in them load."""

from __future__ import annotations

import importlib
import sys

# Of what users may have pickled: pruners, reports and exceptions.
_MOVED = {
    "force_tf.prune_at_init": "force_tf.search.prune_at_init",
    "force_tf.collapse": "force_tf.models.collapse",
    "force_tf.shrink.report": "force_tf.shrinking.report",
}


def keep_loading() -> None:
    """Makes the modules known under their old names too. `pickle` looks there before it imports anything."""
    for old, new in _MOVED.items():
        sys.modules.setdefault(old, importlib.import_module(new))
