"""Putting things back without being interrupted half-way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class restoring:  # noqa: N801 (used as a statement, as the context managers of contextlib)
    """Calls a function when a block ends, fails or is interrupted, and lets no Ctrl-C interrupt that function half-way.

    The first Ctrl-C ends the block as ever. What comes after it, until all is put back, is delivered then. A signal
    reaches Python's main thread alone, so that blocks in other threads need nothing.

    Args:
        restore: Called once, without arguments.
        change: Called first, without arguments, and not interrupted half-way either: what `restore` undoes. If it
            fails, `restore` is called, which must cope with what is half changed.

    Example:

    ```python
    before = x.copy()
    with restoring(lambda: np.copyto(x, before)):
        x += 1.0
    ```
    """

    def __init__(self, restore: Callable[[], None], change: Callable[[], None] = lambda: None):
        self._restore, self._change = restore, change
        self._before: Any = None
        self._installed = False
        self._holds = True
        self._pending: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):  # else it is ignored, ends the process at once, or is not Python's affair
                self._before, self._installed = before, True
                signal.signal(signal.SIGINT, self._handle)
        try:
            self._change()
        except BaseException:
            self.__exit__()
            raise
        if self._pending is not None:
            self.__exit__()
        self._holds = False

    def __exit__(self, *exception: Any) -> None:
        self._holds = True
        try:
            self._restore()
        finally:
            self._release()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # An exception that is raised while Python enters or leaves the block would pass `_restore` by.
        at_the_edge = frame is not None and frame.f_code in _EDGES
        if self._holds or at_the_edge:
            self._pending = (number, frame)
            return
        self._holds = True
        self._before(number, frame)
        self._holds = False  # a handler of the user's that let the block go on

    def _release(self) -> None:
        if self._installed and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)
        if self._pending is not None:
            self._before(*self._pending)


_EDGES = (restoring.__enter__.__code__, restoring.__exit__.__code__)
