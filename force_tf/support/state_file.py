"""The state of long work in a file of a folder, so that work that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.support.files import atomic_file, content_of

_FORMAT = 1


class StateFile:
    """The file in which long work keeps its state: facts, as JSON can hold them, and arrays.

    It is written aside and renamed, so that it is always of one moment.

    Args:
        folder: Where it lies; made if it does not exist.
        work: What the work is, such as "search": the name of the file, and in messages.
        read: Returns the content of a file, or None if there is no such file. Where several processes work together, it
            may be what another one has read.
        makes_folder: Whether this process is the one that makes the folder.

    Attributes:
        folder: The folder.
        facts: What the file says; empty if there is none.
        arrays: The arrays in it, by name.

    Raises:
        ValueError: If the file is damaged, or none of this kind.
        OSError: If the folder cannot be made, written or read.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        work: str,
        *,
        read: Callable[[str], bytes | None] = content_of,
        makes_folder: bool = True,
    ):
        self.folder, self._work = os.fspath(folder), work
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise NotADirectoryError(
                f"Expected `checkpoint` to be a folder. Received the path of a file: {self.folder!r}"
            )
        if makes_folder:
            os.makedirs(self.folder, exist_ok=True)
        self._path = os.path.join(self.folder, f"{work}.npz")
        self.facts, self.arrays = self._parsed(read(self._path))
        self._description: dict[str, Any] = {}

    def begin(self, description: Mapping[str, Any]) -> None:
        """Notes what the work is on, and checks that the file is of the same.

        Args:
            description: What the work depends on, as JSON can hold it.

        Raises:
            ValueError: If the file is of other work; it says what differs.
        """
        self._description = json.loads(json.dumps(description))  # as it comes back from the file
        if not self.facts:
            return
        before = self.facts["description"]
        for key in {**before, **self._description}:
            old, new = before.get(key), self._description.get(key)
            if old != new:
                raise ValueError(
                    f"Expected the {self._work} that the checkpoint in {self.folder!r} is of; give this one a folder "
                    f"of its own. Received: another {key}: {_short(new)}, where it was {_short(old)}"
                )

    def write(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the state, in place of the one before."""
        facts = {"format": _FORMAT, "description": self._description, **facts}
        content = {**arrays, "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        with atomic_file(self._path) as file:
            np.savez(file, **content)

    def _parsed(self, content: bytes | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if content is None:
            return {}, {}
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(arrays.pop("facts").tobytes())
            if facts["format"] != _FORMAT:
                raise ValueError(f"format {facts['format']}")
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"Expected a checkpoint of a {self._work} in {self._path!r}, whole and of this version of force_tf; "
                f"remove it to begin anew. Received: a file that cannot be read ({error})"
            ) from None
        return facts, arrays


def bytes_of(value: Any) -> np.ndarray:
    """Returns a tensor of any type as bytes, which NumPy can write to a file."""
    return np.frombuffer(tf.io.serialize_tensor(value).numpy(), np.uint8)


def tensor_of(content: np.ndarray) -> tf.Tensor:
    """Returns the tensor that `bytes_of` made bytes of."""
    proto = tf.make_tensor_proto([0])
    proto.ParseFromString(content.tobytes())
    return tf.io.parse_tensor(content.tobytes(), tf.as_dtype(proto.dtype))


def digest_of(values: Iterable[Any]) -> str:
    """Returns what tells tensors from others without holding them."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(bytes_of(value))
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
