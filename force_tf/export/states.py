"""The states of stateful recurrent layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


@contextlib.contextmanager
def initial_states(states: Sequence[Any]) -> Iterator[None]:
    """Sets states to zero while the block runs, and puts back afterwards what they were."""
    before = [np.array(state) for state in states]
    try:
        for state, value in zip(states, before):
            state.assign(np.zeros_like(value))
        yield
    finally:
        for state, value in zip(states, before):
            state.assign(value)
