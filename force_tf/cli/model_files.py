"""Models from files of either Keras."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import warnings
import zipfile
from typing import Any

import h5py
import keras

from force_tf.models.keras_models import check_model

KERASES = ("keras", "tf_keras")
_NO_OPTIMIZER_STATE = (
    r"(?s)A total of 1 objects could not be loaded.*optimizers|Skipping variable loading for optimizer"
)
_ZIP, _HDF5 = (".keras",), (".h5", ".hdf5")


def load_model(path: str | os.PathLike, module: str | None = None, *, compiled: bool = False) -> keras.Model:
    """Loads a whole model, pruned or plain.

    Args:
        path: A `.keras`, `.h5` or `.hdf5` file.
        module: The Keras to load it with, one of `KERASES`. None: the one that saved it.
        compiled: Whether to compile it as it was when it was saved.

    Raises:
        ImportError: If that Keras is not installed.
        OSError: If there is no such file.
        ValueError: If the file holds no model that can be loaded.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected the path of a .keras or .h5 file. Received: {path!r}, which is no file.")
    module = module or _saved_by(path)
    if module == "tf_keras":
        with contextlib.suppress(ImportError):  # without tfmot, plain models load all the same
            importlib.import_module("force_tf.layers.tf_keras")  # so that tf_keras knows the wrappers
    try:
        with warnings.catch_warnings():
            # The state of an optimizer, which is there only after a fit, is of no use here.
            warnings.filterwarnings("ignore", message=_NO_OPTIMIZER_STATE)
            model = importlib.import_module(module).models.load_model(path, compile=compiled)
    except ImportError:
        raise
    except Exception as error:  # each layer has its own ways to fail
        raise ValueError(
            f"Expected a whole model that {module} can load without code of your own ({_first_line(error)}). "
            f"Received: {path!r}"
        ) from None
    check_model(model)
    return model


def _saved_by(path: str) -> str:
    """Returns the name of the Keras whose version stands in a file."""
    try:
        version = _version(path)
    except (KeyError, OSError, UnicodeError, ValueError, zipfile.BadZipFile):
        version = None
    if not isinstance(version, str) or not version[:1].isdigit():
        raise ValueError(f"Expected a .keras or .h5 file that holds a whole Keras model. Received: {path!r}")
    return "keras" if int(version.partition(".")[0]) >= 3 else "tf_keras"


def _version(path: str) -> Any:
    if path.endswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))["keras_version"]
    if path.endswith(_HDF5):
        with h5py.File(path) as file:
            return file.attrs["keras_version"]
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
