"""Two scores, one after the other: candidates by the first, the choice among them by the second."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from force_tf.criteria.base import Criterion
from force_tf.criteria.baselines import Magnitude
from force_tf.criteria.gradient import GradientMagnitude
from force_tf.criteria.network import Network
from force_tf.support import arguments
from force_tf.support.top_k import top_k


@dataclasses.dataclass(frozen=True)
class Pool(Criterion):
    """The weights with the smallest first scores are candidates; of these go the ones with the smallest second scores.

    Of r kept weights, over all layers, floor(fraction · r) are candidates. The others score more than any candidate, so
    that they go only where more are to go than there are candidates, and by the second score then.

    Args:
        first: What chooses the candidates; of FGGP the gradient, |∂L/∂θ̄|.
        fraction: The part of the kept weights that are candidates, in (0, 1].
        then: What chooses among them; of FGGP the magnitude, |θ|.

    References:
        - [FGGP](https://arxiv.org/abs/2411.05500), feather-light gradient-first pruning
    """

    first: Criterion = dataclasses.field(default_factory=GradientMagnitude)
    fraction: float = 0.5
    then: Criterion = dataclasses.field(default_factory=Magnitude)

    def __post_init__(self):
        for name in ("first", "then"):
            value = getattr(self, name)
            if not isinstance(value, Criterion):
                raise TypeError(f"Expected `{name}` to be a force_tf.criteria.Criterion. Received: {name}={value!r}")
        arguments.number("fraction", self.fraction, "(0, 1]")

    @property
    def needs_data(self) -> bool:
        """Whether one of the two scores needs data and a loss."""
        return self.first.needs_data or self.then.needs_data

    @property
    def needs_network(self) -> bool:
        """Whether one of the two scores needs passes of the network."""
        return self.first.needs_network or self.then.needs_network

    @property
    def counted(self) -> tuple[str, ...]:
        """What is counted for the two scores while a network trains."""
        return (*self.first.counted, *self.then.counted)

    def scores(self, network: Network) -> Iterable[np.ndarray]:
        first, then = (_flat(criterion.scores(network)) for criterion in (self.first, self.then))
        kept = np.concatenate([np.ravel(mask) for mask in network.masks])
        out = first if first.dtype == then.dtype else None
        scores = pooled(first, then, kept, self.fraction, out)
        ends = np.cumsum([weight.size for weight in network.weights])[:-1]
        parts = zip(np.split(scores, ends), network.weights)
        return [part.reshape(weight.shape) for part, weight in parts]


def pooled(
    first: np.ndarray, then: np.ndarray, kept: np.ndarray, fraction: float, out: np.ndarray | None = None
) -> np.ndarray:
    """Returns the scores of `Pool`.

    Args:
        first: The first scores, flat floats.
        then: The second scores, flat floats.
        kept: Flat booleans; only kept weights can be candidates.
        fraction: The part of the kept weights that are candidates.
        out: Where to write what is returned, of the dtype of `then`; it may be `first`. None for a new array.

    Returns:
        Flat floats: the second scores of candidates, and those of others lifted above all of them.
    """
    number = int(np.count_nonzero(kept))
    # Of equal ones the last, as a cut keeps the first.
    others = top_k(first, number - int(fraction * number), kept)
    others |= ~kept
    lift = then.max() - then.min() + 1
    if not np.isfinite(lift):
        return np.where(others, then + lift, then)
    # Many times faster, of the same values.
    lifts = np.multiply(others, lift, out=out, dtype=then.dtype)
    return np.add(then, lifts, out=lifts)


def _flat(scores: Iterable[tf.Tensor]) -> np.ndarray:
    return np.concatenate([np.ravel(score) for score in scores])
