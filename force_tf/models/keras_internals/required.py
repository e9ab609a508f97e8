"""Looks up private names, and says which one a version lacks."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_NOTHING = object()


class MissingInternalError(RuntimeError):
    """A private name of another package that force_tf needs, and that the installed version does not have."""


def required(item: Any, name: str) -> Any:
    """Returns an attribute that every object of this kind must have.

    Raises:
        MissingInternalError: If it has not.
    """
    value = getattr(item, name, _NOTHING)
    if value is _NOTHING:
        kind = item if isinstance(item, type) else type(item)
        raise missing(f"{kind.__name__}.{name}", package_of(item) or kind.__module__)
    return value


def imported(module: str, name: str) -> Any:
    """Returns what a private module defines, and imports it if it must.

    Raises:
        MissingInternalError: If there is no such module, or nothing of this name in it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise missing(f"{module}.{name}", module.partition(".")[0]) from error


def missing(name: str, package: str) -> MissingInternalError:
    """Returns the error that says which name a package lacks."""
    version = getattr(sys.modules.get(package), "__version__", "(not imported)")
    return MissingInternalError(
        f"Expected {name!r} of {package}: install a version with which force_tf is tested (docs/versions.md). "
        f"Received: {package} {version}, which does not have it"
    )


def package_of(item: Any) -> str | None:
    """Returns "keras", "tf_keras" or "tensorflow", whichever the class of an object is made of first, or None."""
    for cls in (item if isinstance(item, type) else type(item)).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("keras", "tf_keras", "tensorflow"):
            return root
    return None


def is_keras_3(item: Any) -> bool:
    """Returns whether an object is made of Keras 3."""
    return package_of(item) == "keras"
