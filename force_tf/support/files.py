"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

# The disk is full, the user's share of it is used up, or files may not grow so large.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file beside `path` for writing, which takes the place of `path` when the block ends.

    If the block fails, what was at `path` stays as it was. Entering the block at the start of long work tells early
    whether the result can be written.

    Args:
        path: The file to write.

    Raises:
        OSError: If the folder does not exist or cannot be written, `path` is a folder, or the disk is full.
    """
    path = os.fspath(path)
    if os.path.isdir(path) or not path:
        raise IsADirectoryError(f"Expected the path of a file. Received: {path!r}")
    try:
        handle, aside = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".force_tf-", suffix=".tmp")
    except OSError as error:
        raise type(error)(
            f"Expected a path in a folder that exists and can be written ({error.strerror}). Received: {path!r}"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException as error:
        os.unlink(aside)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise OSError(
                error.errno, f"Expected space enough for the file ({os.strerror(error.errno)}). Received: {path!r}"
            ) from error
        raise


def _umask() -> int:
    # mkstemp makes private files; a finished file should have the mode that open() would give it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
