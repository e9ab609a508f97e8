"""The state of a search in a folder, so that a search that was killed goes on where it was."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.criteria import Network
from force_tf.models.model_state import ModelState
from force_tf.search.workers import Workers
from force_tf.support.state_file import StateFile, bytes_of, digest_of, tensor_of

# A state is left out if writing would take more than this share of the search's time.
_SHARE = 0.05


@dataclasses.dataclass
class Progress:
    """How far a search has come.

    Attributes:
        step: How many steps are done.
        keep: The weights kept, flat, as the last cut left them.
        history: The rows of the steps.
        zeros: What `ZeroScores` has seen.
    """

    step: int
    keep: np.ndarray
    history: list[dict[str, Any]]
    zeros: dict[str, Any]


class Checkpoint:
    """The file in which a search keeps its state.

    Where several processes search together the first one reads and writes it, and tells the others.

    Args:
        folder: Where it lies; made if it does not exist.
        workers: The processes that search.

    Attributes:
        seed: The seed of the search that the file is of, or a new one if there is no file. A search without a seed has
            one all the same, so that it can go on with the same batches.

    Raises:
        ValueError: If the file is damaged, or none of this kind.
        OSError: If the folder cannot be made, written or read.
    """

    def __init__(self, folder: str | os.PathLike, workers: Workers):
        self._workers = workers
        self._file = StateFile(folder, "search", read=workers.content_of, makes_folder=workers.is_chief)
        self._folder = self._file.folder
        facts = self._file.facts
        self.seed: int = facts["seed"] if facts else workers.agree(secrets.randbits(32))
        self._steps = 0
        self._initial: ModelState | None = None
        self._written, self._cost = float("-inf"), 0.0

    def begin(self, network: Network, description: Mapping[str, Any]) -> None:
        """Notes what is searched, before anything changes, and checks that the file is of the same search.

        Args:
            network: The network, before the criterion prepares it.
            description: The settings of the search, as JSON can hold them.

        Raises:
            ValueError: If the file is of another search; it says what differs.
        """
        self._initial = ModelState(network.model)
        # Other processes have other batch statistics, and their own parts of the data.
        self._file.begin(self._workers.agree({**description, **_described(network)}))
        self._steps = len(description["densities"])

    def resume(self, network: Network) -> Progress | None:
        """Brings a network, which the criterion has prepared, to where the search was; None if it has not begun."""
        facts, arrays = self._file.facts, self._file.arrays
        if not facts:
            return None
        size = sum(weight.size for weight in network.weights)
        keep = np.unpackbits(arrays["keep"], count=size).astype(bool)
        progress = Progress(facts["step"], keep, facts["history"], facts["zeros"])
        network.random.bit_generator.state = facts["random"]
        if progress.step == self._steps:
            return progress  # nothing is left to do
        self._initial.assign_changes({int(i): tensor_of(arrays[f"variable {i}"]) for i in facts["variables"]})
        self._initial.set_seeds(facts["layer_seeds"])
        for key, count in facts["memory"].items():
            network.memory[key] = [tensor_of(arrays[f"memory {key} {i}"]) for i in range(count)]
        if network.batches is not None:
            network.batches.restore(self._folder, facts["data"])
        arrays.clear()  # else what the network holds now would be held twice
        return progress

    def is_due(self, step: int) -> bool:
        """Whether to save after a step: not if the last state was written too short a time ago for what it cost.

        After the last step it always is. Of several processes the first one alone saves.
        """
        if not self._workers.is_chief:
            return False
        is_last = step == self._steps
        return is_last or time.monotonic() - self._written >= self._cost / _SHARE

    def save(self, network: Network, progress: Progress) -> None:
        """Writes the state after a step."""
        is_last = progress.step == self._steps
        begin = time.monotonic()
        prunable = {id(weight.variable) for weight in network.weights}
        changed = {} if is_last else self._initial.changes(without=prunable)
        memory = {} if is_last else network.memory
        data = {"drawn": 0, "saved": None}
        if network.batches is not None and not is_last:
            data = network.batches.save(self._folder, f"data-{progress.step}")
        arrays = {"keep": np.packbits(progress.keep)}
        arrays |= {f"variable {i}": bytes_of(value) for i, value in changed.items()}
        for key, tensors in memory.items():
            arrays |= {f"memory {key} {i}": bytes_of(tensor) for i, tensor in enumerate(tensors)}
        facts = {
            "seed": self.seed,
            "step": progress.step,
            "history": progress.history,
            "zeros": progress.zeros,
            "random": network.random.bit_generator.state,
            "layer_seeds": self._initial.seeds(),
            "variables": list(changed),
            "memory": {key: len(tensors) for key, tensors in memory.items()},
            "data": data,
        }
        self._file.write(facts, arrays)
        self._remove_data(but=data["saved"])
        self._written = time.monotonic()
        self._cost = self._written - begin

    def _remove_data(self, but: str | None) -> None:
        for name in os.listdir(self._folder):
            if name.startswith("data-") and name != but:
                shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)


def _described(network: Network) -> dict[str, Any]:
    """Returns what a search depends on besides its settings."""
    batches = network.batches
    shapes = None
    if batches is not None:
        leaves = tf.nest.flatten(batches.first)
        shapes = [None if leaf is None else [list(leaf.shape[1:]), leaf.dtype.name] for leaf in leaves]
    weights = [[weight.path, list(weight.shape)] for weight in network.weights]
    values = digest_of(ModelState(network.model).values)
    return {"prunable weights": weights, "shape of the data": shapes, "values of the model": values}
