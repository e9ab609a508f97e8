"""The processes that search together, and what they must agree on."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from force_tf.objective.batches import Batches
from force_tf.objective.distribution import distribution_of_model
from force_tf.support.files import content_of


class Workers:
    """The processes of a MultiWorkerMirroredStrategy, or one process by itself.

    Args:
        model: The model that is searched.
    """

    def __init__(self, model: Any):
        distribution = distribution_of_model(model)
        self._distribution = None if distribution is None or distribution.workers == 1 else distribution

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files."""
        return self._distribution is None or self._distribution.is_chief

    def agree(self, value: Any) -> Any:
        """Returns what the chief gives, of what JSON can hold."""
        content = json.dumps(value).encode()
        return json.loads(content if self._distribution is None else self._distribution.from_chief(content))

    def content_of(self, path: str) -> bytes | None:
        """Returns the content of a file of the chief's, or None if there is no such file."""
        if self._distribution is None:
            return content_of(path)
        content = content_of(path) if self.is_chief else None
        told = self._distribution.from_chief(b"" if content is None else b"+" + content)
        return told[1:] if told else None

    def common_seed(self, seed: int | None) -> int | None:
        """Returns a seed, or where there is none but several processes one that the chief draws."""
        if self._distribution is None or seed is not None:
            return seed
        return self.agree(secrets.randbits(32))

    def check_data(self, batches: Batches | None) -> None:
        """Raises ValueError unless all processes draw the same batches, or each its own part of them."""
        if batches is not None and not batches.are_distributed:
            self.check_same("first batch", batches.first_bytes, "data, or a `tf.data.Dataset`, which is sharded")

    def check_same(self, what: str, content: Callable[[], bytes], causes: str) -> None:
        """Raises ValueError unless all processes give the same content, compared by a checksum.

        Args:
            what: What it is.
            content: Returns the content; called where there are several processes.
            causes: What must be the same everywhere for it to be the same.
        """
        if self._distribution is None:
            return
        digest = hashlib.sha256(content()).digest()
        sums = self._distribution.of_all_workers(np.frombuffer(digest, np.int32))
        if (sums != sums[0]).any():
            other = int(np.flatnonzero((sums != sums[0]).any(axis=1))[0])
            raise ValueError(
                f"Expected the same {what} on every worker: give all of them the same {causes}. "
                f"Received: others on worker {other} than on the chief"
            )
