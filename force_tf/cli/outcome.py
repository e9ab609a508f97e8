"""What a command came to: the same as text and as values."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command prints.

    Attributes:
        text: For people.
        values: For `--json`.
    """

    text: str
    values: Any
