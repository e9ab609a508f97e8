"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from typing import BinaryIO

# The disk is full, the user's share of it is used up, or files may not grow so large.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def content_of(path: str) -> bytes | None:
    """Returns the content of a file, or None if there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file beside `path` for writing, which takes the place of `path` when the block ends.

    If the block fails, what was at `path` stays as it was. Entering the block at the start of long work tells early
    whether the result can be written. What killed processes of this machine left of the same file is removed.

    Args:
        path: The file to write. A symbolic link stays, and what it points at is written.

    Raises:
        OSError: If the folder does not exist or cannot be written, `path` is a folder or a device, or the disk is full.
    """
    path = os.fsdecode(path)
    target = _resolved(path)
    _remove_left_behind(target)
    # Not a private file as of mkstemp: a finished file should have the mode that open() would give it.
    aside = f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        file = open(aside, "xb")  # noqa: SIM115 (closed below, before it is renamed)
    except OSError as error:
        raise type(error)(
            f"Expected a path in a folder that exists and can be written ({error.strerror}). Received: {path!r}"
        ) from None
    try:
        with file:
            yield file
        os.replace(aside, target)
    except BaseException as error:
        os.unlink(aside)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise OSError(
                error.errno, f"Expected space enough for the file ({os.strerror(error.errno)}). Received: {path!r}"
            ) from error
        raise


def _resolved(path: str) -> str:
    """Returns the file that a path leads to, which need not exist, and refuses what is no file."""
    if not os.path.basename(path) or os.path.isdir(path):
        raise IsADirectoryError(f"Expected the path of a file. Received: {path!r}")
    real = os.path.realpath(path)
    if os.path.lexists(real) and not os.path.isfile(real):  # renaming onto a device would replace the device
        raise OSError(f"Expected the path of a regular file, not of a device or a circle of links. Received: {path!r}")
    return real


def _prefix(path: str) -> str:
    """How the names of unfinished files begin that this machine writes for a path: each name says whose it is."""
    folder, name = os.path.split(path)
    target = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    host = re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII)[:40]
    return os.path.join(folder, f".force_tf-{target}-{host}-")


def _remove_left_behind(path: str) -> None:
    prefix = _prefix(path)
    for aside in glob.glob(f"{glob.escape(prefix)}*.tmp"):
        owner = re.fullmatch(r"(\d+)-[0-9a-f]{8}\.tmp", aside[len(prefix) :])
        if owner is not None and not _is_alive(int(owner[1])):
            # Another writer was faster, or the file is another user's.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.unlink(aside)


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there, signal 0 would end the process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    return True
