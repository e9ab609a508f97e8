"""Passes over large arrays, block by block, by as many threads as there are cores."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import TypeVar

# How many entries are looked at together, so that they stay in the processor's cache.
BLOCK = 1 << 17
# Below so many blocks handing them to threads costs more than it saves.
_WORTHWHILE = 16
# More threads than this wait for the memory.
_MOST_THREADS = 8

Result = TypeVar("Result")


def of_size(size: int) -> list[slice]:
    """Returns the blocks of an array of so many entries."""
    return [slice(begin, min(begin + BLOCK, size)) for begin in range(0, size, BLOCK)]


def over_blocks(function: Callable[[slice], Result], size: int) -> list[Result]:
    """Returns what a function returns for each block of an array, in their order.

    Args:
        function: Is called with slices, by several threads at once where there are many: NumPy lets go of the
            interpreter while it computes. What it returns must not depend on the order of the calls.
        size: How many entries the array has.
    """
    blocks = of_size(size)
    threads = _threads()
    if len(blocks) < _WORTHWHILE or threads == 1:
        return list(map(function, blocks))
    # A few runs for each thread: handing over single blocks would take about as long as computing them.
    length = -(-len(blocks) // (4 * threads))
    runs = [blocks[begin : begin + length] for begin in range(0, len(blocks), length)]
    found = _pool().map(lambda run: list(map(function, run)), runs)
    return [result for results in found for result in results]


@functools.cache
def _threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _MOST_THREADS)


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_threads(), thread_name_prefix="force_tf")


# Threads are not there in a process that is forked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
