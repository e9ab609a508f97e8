"""Checks, when force_tf is imported, that it stands on versions with which it is tested."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Mapping

# First minor version supported, and first one not tested. setup.cfg tells pip the first alone: newer ones can be tried.
TESTED = {"tensorflow": ((2, 18), (2, 22)), "keras": ((3, 8), (3, 16))}


def check_versions(installed: Mapping[str, str] | None = None) -> None:
    """Raises or warns if TensorFlow or Keras is of a version with which force_tf is not tested.

    Args:
        installed: Mapping from "tensorflow" and "keras" to a version. None: those that can be imported.

    Raises:
        ImportError: If one of the two is missing or older than supported.
    """
    if installed is None:
        installed = {package: _version(package) for package in TESTED}
    for package, (first, after) in TESTED.items():
        version = installed[package]
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        need = f"{package}>={_dotted(first)}"
        if found < first:
            raise ImportError(
                f"force_tf expects {need}: run `pip install '{need}'`. Received: {package} {version}", name=package
            )
        if found >= after:
            warnings.warn(
                f"force_tf is tested with {need},<{_dotted(after)} and may fail with newer versions; if it does, "
                f"run `pip install '{package}<{_dotted(after)}'`. "
                f"Received: {package} {version}",
                stacklevel=3,  # the line that imports force_tf
            )


def _version(package: str) -> str:
    # The module is asked, not the distribution: TensorFlow comes under several distribution names.
    try:
        return importlib.import_module(package).__version__
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        if package == "keras" and backend != "tensorflow":
            raise ImportError(
                "force_tf expects Keras on its TensorFlow backend: unset KERAS_BACKEND, or set it to tensorflow. "
                f"Received: KERAS_BACKEND={backend}, whose import fails ({error})",
                name=error.name,
            ) from error
        raise ImportError(
            f"force_tf expects {package} to be importable: run `pip install force_tf`. Received: {error}", name=package
        ) from error


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
