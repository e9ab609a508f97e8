"""Arrays from the files that commands take."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np

_TARGETS = "y"


def read_data(path: str | os.PathLike | None) -> Any:
    """Reads data in a form that `fit` takes.

    Args:
        path: An `.npy` file of inputs, or an `.npz` file of inputs and, under the name "y", targets. The inputs are the
            array `x`, or else all other arrays, by their names. None: no data.

    Returns:
        Inputs, or a pair of inputs and targets, or None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no arrays.
    """
    if path is None:
        return None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected the path of an .npz or .npy file. Received: {path!r}, which is no file.")
    try:
        content = np.load(path, allow_pickle=False)
        arrays = content if isinstance(content, np.ndarray) else dict(content)
    except (EOFError, ValueError, zipfile.BadZipFile):
        raise ValueError(f"Expected an .npz or .npy file of arrays of numbers. Received: {path!r}") from None
    if isinstance(arrays, np.ndarray):
        return arrays
    targets = arrays.pop(_TARGETS, None)
    if not arrays:
        raise ValueError(f"Expected inputs, such as an array `x`. Received: {path!r}, which holds only {_TARGETS!r}")
    inputs = arrays["x"] if set(arrays) == {"x"} else arrays
    return inputs if targets is None else (inputs, targets)
