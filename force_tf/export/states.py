"""The states of stateful recurrent layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from force_tf.models.paths import layers_of


def state_variables(model: keras.Model) -> list[Any]:
    """Returns the variables that hold the states of a model's stateful layers, of either Keras, from call to call."""
    layers = (layer for layer in layers_of(model) if getattr(layer, "stateful", False))
    states = (keras.tree.flatten(getattr(layer, "states", None)) for layer in layers)
    return [state for layer_states in states for state in layer_states if hasattr(state, "assign")]


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
