"""Keeps the chatter of TensorFlow's converter and of the TFLite runtime from the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

# Descriptors, sys.stdout, logging and the filters of warnings belong to the whole process: of two threads that redirect
# them by turns, the last would restore what the other had redirected.
_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Holds back everything written to the standard streams, by native code too, while the block runs.

    Warnings and log records are held back as well. Errors pass. One thread at a time is in such a block, and other
    threads' words are held back with its own, so the block should hold nothing but the calls that chatter.

    Yields:
        A function that returns what native code has written so far.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_LOCK)
        held = stack.enter_context(tempfile.TemporaryFile())
        # The converter is C++ and knows nothing of sys.stderr, a notebook's sys.stderr nothing of descriptor 2.
        for descriptor in (1, 2):
            stack.enter_context(_redirected(descriptor, held.fileno()))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        yield lambda: _read(held)


@contextlib.contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    _flush()
    original = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        _flush()
        os.dup2(original, descriptor)
        os.close(original)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _read(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
