"""What has come to nothing in a network whose masks move, named when it happens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from force_tf.models.collapse import LayerCollapseWarning, ignored_inputs, probe_inputs


class Health:
    """Watches over weight tensors that lose all their weights, and a network that comes to ignore its inputs.

    Args:
        model: The network before anything of it is pruned.
        advice: What helps, for the warning.
    """

    def __init__(self, model: Any, advice: str):
        self._advice = advice
        self._named: set[str] = set()
        self._probe = self._make_probe(model)

    def _make_probe(self, model: Any) -> Any | None:
        """Returns rows to try the network on, or None if it ignores them already, or cannot be tried."""
        try:
            rows = probe_inputs(model, None, np.random.default_rng(0))
            return None if rows is None or any(ignored_inputs(model, rows)) else rows
        except Exception:  # whatever the model makes of random rows, it may train on real ones
            return None

    def check(self, model: Any, masks: Mapping[str, np.ndarray], when: str) -> None:
        """Warns, once each, of weight tensors that keep nothing, and of a network that ignores its inputs.

        Args:
            model: The network as it is, with its masks applied.
            masks: These masks, by the paths of the weights.
            when: The time, for the warning.
        """
        empty = [path for path, mask in masks.items() if not mask.any() and path not in self._named]
        collapsed = self._probe is not None and "" not in self._named and any(ignored_inputs(model, self._probe))
        if not empty and not collapsed:
            return
        self._named |= {*empty, *([""] if collapsed else [])}
        found = [f"no weight is left of {', '.join(empty)}"] if empty else []
        if collapsed:
            thinnest = sorted(masks, key=lambda path: masks[path].mean())[:3]
            kept = [f"{path} (keeps {np.count_nonzero(masks[path]):,} of {masks[path].size:,})" for path in thinnest]
            found.append(
                f"the network's output no longer depends on its input; the sparsest weights are {', '.join(kept)}"
            )
        warnings.warn(
            f"Pruning has gone too far by {when}: {'; '.join(found)}. What helps: {self._advice}.",
            LayerCollapseWarning,
            stacklevel=3,
        )
