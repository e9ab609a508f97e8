"""Scores that are exactly zero: they say nothing about which weights to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from force_tf.models.weights import PrunableWeight

_LISTED = 5


class ZeroScoresWarning(UserWarning):
    """Scores that are exactly zero decided what a search pruned."""


class ZeroScores:
    """Watches a search for scores that are exactly zero where they decide what is kept.

    Only two moments tell. In the first step nothing is pruned yet, so that a tensor without any score matters to
    nothing that was scored. In the last step the cut is final: earlier ones may leave zeros, such as those of pixels
    that are always black, for later ones to prune.

    Args:
        weights: The prunable weights, in model order.
        by_weight: Whether each weight is kept or pruned by its own score. Of blocks and channels some weights may score
            zero, so that only scores without any other number tell.
    """

    def __init__(self, weights: Sequence[PrunableWeight], *, by_weight: bool):
        self._weights = weights
        self._by_weight = by_weight
        self._without_scores: list[str] = []
        self._by_index = False

    def look_at_dense(self, scored: Sequence[bool]) -> None:
        """Notes which tensors have no score but zero, in the network before pruning.

        Args:
            scored: Whether each of the weight tensors has another one.
        """
        self._without_scores = [w.path for w, any_scored in zip(self._weights, scored) if w.size and not any_scored]

    def look_at_last_cut(self, kept: int, candidates: int, nonzero: int) -> None:
        """Notes whether the last cut had to choose among weights that score zero.

        Args:
            kept: How many weights the cut keeps.
            candidates: How many it could keep.
            nonzero: How many of those have a score that is not zero.
        """
        self._by_index = kept < candidates and nonzero < (kept if self._by_weight else 1)

    def state(self) -> dict[str, Any]:
        """Returns what was noted, as JSON can hold it."""
        return {"without_scores": self._without_scores, "by_index": self._by_index}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Notes what `state` returned."""
        self._without_scores, self._by_index = list(state["without_scores"]), state["by_index"]

    def message(self, masks: Mapping[str, np.ndarray], collapsed: bool, cause: str | None = None) -> str | None:
        """Returns what to tell the user, or None if no zero decided anything.

        Args:
            masks: What the search keeps.
            collapsed: Whether the pruned network has collapsed. Then its scores are zero because of that, which has a
                warning of its own, unless they were zero before.
            cause: A sentence that tells why, if that is known.
        """
        paths = [path for path in self._without_scores if not masks[path].all()]
        by_index = self._by_index and (bool(paths) or not collapsed)
        if not paths and not by_index:
            return None
        parts = []
        if paths:
            kept = [f"{path} (keeps {np.count_nonzero(masks[path]):,} of {masks[path].size:,})" for path in paths]
            more = f" and {len(kept) - _LISTED} more" if len(kept) > _LISTED else ""
            parts.append(
                f"All scores of {', '.join(kept[:_LISTED])}{more} are exactly zero: what was scored does not depend on "
                "them."
            )
        if by_index:
            parts.append("Fewer scores than weights to keep are not zero: the rest was kept by its index alone.")
        if cause:
            parts.append(cause)
        parts.append(
            "What helps: leave out what should stay whole, by `layer.trainable = False` or `layers=`; where a head or "
            "a branch starts at zero, search with trained or perturbed weights in it; `min_per_layer=` keeps some "
            "weights of every tensor."
        )
        return " ".join(parts)
