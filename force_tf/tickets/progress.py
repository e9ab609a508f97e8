"""How far a search of tickets has come, in memory and in its file."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from force_tf.support.state_file import StateFile, bytes_of, tensor_of


@dataclasses.dataclass
class Progress:
    """How far a search has come.

    Attributes:
        kept: The weights kept, flat booleans.
        weights: What the next round begins with; None for the weights of the model.
        first_step: The step of the optimizer at which those weights were kept, if one was asked for.
        last_step: The step of the optimizer at which the first training ended; 0 before.
        history: The rows of the rounds.
    """

    kept: np.ndarray
    weights: list[np.ndarray] | None = None
    first_step: int = 0
    last_step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def read(file: StateFile, size: int) -> Progress | None:
    """Returns what a file says, of a search among so many weights; None if there is none yet."""
    facts, arrays = file.facts, file.arrays
    if not facts:
        return None
    count = facts["weights"]
    weights = None if count is None else [tensor_of(arrays[f"weight {i}"]).numpy() for i in range(count)]
    kept = np.unpackbits(arrays["kept"], count=size).astype(bool)
    return Progress(kept, weights, facts["first_step"], facts["last_step"], facts["history"])


def write(file: StateFile, progress: Progress) -> None:
    """Puts it into a file, in place of what was there."""
    arrays = {"kept": np.packbits(progress.kept)}
    arrays |= {f"weight {i}": bytes_of(value) for i, value in enumerate(progress.weights or [])}
    facts = {
        "weights": None if progress.weights is None else len(progress.weights),
        "first_step": progress.first_step,
        "last_step": progress.last_step,
        "history": progress.history,
    }
    file.write(facts, arrays)
