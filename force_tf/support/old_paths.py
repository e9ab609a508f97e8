"""Names of modules from before they moved, so that users' pickles of what is in them load."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

# Of what users may have pickled: pruners, reports and exceptions.
_MOVED = {
    "force_tf.prune_at_init": "force_tf.search.prune_at_init",
    "force_tf.collapse": "force_tf.models.collapse",
    "force_tf.shrink.report": "force_tf.shrinking.report",
}


class _OldPath(types.ModuleType):
    """A module under its old name, which imports the new one when something is looked up in it."""

    def __getattr__(self, name: str) -> Any:
        # inspect and pickle ask modules for dunders that they lack: no reason to import anything.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        return getattr(importlib.import_module(_MOVED[self.__name__]), name)


def keep_loading() -> None:
    """Makes the modules known under their old names too. `pickle` looks there before it imports anything."""
    for old in _MOVED:
        sys.modules.setdefault(old, _OldPath(old))
