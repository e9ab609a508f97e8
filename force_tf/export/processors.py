"""Emulated processors on which a file can be run, as `tools/setup_emulators.py` sets them up in a folder."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from force_tf.export.samples import Signature
from force_tf.export.verify import Comparison, compare, file_outputs

# Emulators take some hundred times as long.
_SAMPLES = 4
_FILE = "processors.json"


@dataclasses.dataclass(frozen=True)
class Processor:
    """A processor on which files can be run.

    Attributes:
        name: What the report calls it.
        python: The command that starts a Python there, with NumPy and the runtime.
    """

    name: str
    python: tuple[str, ...]

    def compare(
        self, content: bytes, signature: Signature, samples: Sequence[np.ndarray], expected: Sequence[dict]
    ) -> Comparison:
        """Runs a file on the first few samples, and returns how its outputs differ from those of the Keras model.

        Args:
            content: A TFLite file.
            signature: The inputs of the file.
            samples: An array for each input.
            expected: The outputs of the Keras model for each batch of the samples.

        Raises:
            RunError: If the runtime cannot load or run the file there.
        """
        count = -(-_SAMPLES // (signature.batch_size or 1)) * (signature.batch_size or 1)
        first = [array[:count] for array in samples]
        received = file_outputs(content, signature, first, python=self.python)
        return compare(expected[: len(received)], received)


def processors_in(folder: str | os.PathLike | None) -> list[Processor]:
    """Returns the processors that are set up in a folder, none for None.

    Raises:
        ValueError: If none are set up there.
    """
    if folder is None:
        return []
    try:
        described = json.loads((pathlib.Path(folder) / _FILE).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            "Expected `verify_on` to be a folder of emulated processors, which tools/setup_emulators.py makes. "
            f"Received: {os.fspath(folder)!r} ({error})"
        ) from error
    # The Python of an emulated PC is this one.
    return [
        Processor(item["name"], tuple(part.format(python=sys.executable) for part in item["command"]))
        for item in described
    ]
