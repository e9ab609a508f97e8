"""Whole output channels, so that all that is pruned can be removed."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from force_tf.channels.coupling import Coupling, coupling_of
from force_tf.granularity.base import BoundGranularity, ChannelScores, Granularity, Plan, split
from force_tf.models.keras_models import is_graph

if TYPE_CHECKING:
    from force_tf.models.weights import PrunableWeight


class Channels(Granularity):
    """Output channels, each kept or pruned as a whole by a sum of scores."""

    value = "channel"
    by_weight = False

    def bound(
        self, model: Any, weights: Sequence[PrunableWeight], channel_scores: ChannelScores | None = None
    ) -> CoupledChannels:
        if not is_graph(model):
            raise ValueError(
                'Expected a Functional or Sequential model for granularity="channel", since its graph tells which '
                f"channels go together. Received: {model.name!r} of class {type(model).__name__}"
            )
        return CoupledChannels(coupling_of(model, weights), channel_scores)


class CoupledChannels(BoundGranularity):
    """The channels of a model.

    Channels that are tied, as those of residual branches that are added together, are kept or pruned as one. What is
    counted are the weights that `shrink` leaves: those that make a kept channel and read one. A cut keeps the best
    channels, as many as leave no more weights than it is to keep, and at least one of each layer.

    In the midst of a search only the weights that make a pruned channel are zero. Those that read it keep their values:
    without them its scores would be zero, and it could never return.

    Args:
        coupling: Which channels are tied, and what makes and reads them.
        channel_scores: Of a criterion that scores whole channels: what makes their scores of the sums over the weights
            that read them. None to score a channel by the sum over the weights that make it.
    """

    value = Channels.value
    by_weight = Channels.by_weight

    def __init__(self, coupling: Coupling, channel_scores: ChannelScores | None = None):
        self._coupling = coupling
        self._channel_scores = channel_scores

    def fewest(self, weights: Sequence[PrunableWeight], floors: Sequence[int]) -> int:
        return self._count(weights, self._floor(weights, floors, np.arange(1, self._coupling.widths.size)))

    def cut(self, plan: Plan, step: int, scores: np.ndarray, eligible: np.ndarray | None) -> np.ndarray:
        candidates = np.arange(1, self._coupling.widths.size)
        if eligible is not None:
            candidates = candidates[self._staying(plan.weights, eligible)[candidates]]
        order = candidates[np.argsort(-self._sums(plan.weights, scores)[candidates], kind="stable")]
        if plan.scope == "layer":
            order = self._alternating(order)
        stays = self._floor(plan.weights, plan.floors, order)

        def with_best(number: int) -> np.ndarray:
            more = stays.copy()
            more[order[:number]] = True
            return more

        def count(number: int) -> int:
            return self._count(plan.weights, with_best(number))

        fitting = bisect.bisect_right(range(order.size + 1), plan.counts[step - 1], key=count)
        if not fitting:
            raise ValueError(
                f"Expected a `min_per_layer` that {plan.counts[step - 1]:,} kept weights can fill in whole channels; "
                f"it needs {count(0):,}. Lower it or `sparsity`. Received: min_per_layer={max(plan.floors)}"
            )
        number = fitting - 1
        if plan.one_by_one and step < len(plan.counts):
            free = np.flatnonzero(~stays[order])
            number = max(number, free[-1] if free.size else 0)
        stays = with_best(number)
        return self._marks(plan.weights, [stays[first] for first, *_ in self._coupling.places])

    def used(self, plan: Plan, kept: np.ndarray) -> np.ndarray:
        stays = self._staying(plan.weights, kept)
        return self._marks(plan.weights, [self._coupling.used(i, stays) for i in range(len(plan.weights))])

    def _sums(self, weights: Sequence[PrunableWeight], scores: np.ndarray) -> np.ndarray:
        """Returns the score of each group: a sum of scores, in float64, where equal ones tie."""
        sums = np.zeros(self._coupling.widths.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for part, (makes, *reads) in zip(split(scores, weights), self._coupling.places):
                for place in [makes] if self._channel_scores is None else reads:
                    lengths = (1,) * (part.ndim - place.ndim) + place.shape
                    others = tuple(axis for axis, length in enumerate(lengths) if length == 1)
                    of_place = part.sum(axis=others, keepdims=True, dtype=np.float64)
                    sums += np.bincount(np.broadcast_to(place, of_place.shape).ravel(), of_place.ravel(), sums.size)
        if np.isnan(sums[1:]).any():
            raise ValueError("Expected scores that add up in every channel. Received: inf and -inf in one channel")
        return sums if self._channel_scores is None else self._channel_scores(sums)

    def _staying(self, weights: Sequence[PrunableWeight], kept: np.ndarray) -> np.ndarray:
        """Returns for each group whether a cut kept it."""
        stays = np.zeros(self._coupling.widths.size, bool)
        stays[0] = True
        for part, (first, *_) in zip(split(kept, weights), self._coupling.places):
            stays[np.broadcast_to(first, part.shape)[part]] = True
        return stays

    def _alternating(self, order: np.ndarray) -> np.ndarray:
        """Returns an order of which any beginning has about the same fraction of each width, and the best of it."""
        widths = self._coupling.widths[order]
        parts = np.empty(order.size)
        for width in np.unique(widths):
            own = np.flatnonzero(widths == width)
            size = np.count_nonzero(self._coupling.widths[1:] == width)
            parts[own] = (np.arange(own.size) + 0.5) / size
        return order[np.argsort(parts, kind="stable")]

    def _floor(self, weights: Sequence[PrunableWeight], floors: Sequence[int], order: np.ndarray) -> np.ndarray:
        """Returns the groups that stay whatever they score: the first of an order that fill each weight's floor.

        One of each width stays in any case: a layer without channels is none, so that `shrink` would leave it one.
        """
        stays = np.zeros(self._coupling.widths.size, bool)
        stays[0] = True
        stays[order[np.unique(self._coupling.widths[order], return_index=True)[1]]] = True
        ranks = np.full(stays.size, stays.size)
        ranks[order] = np.arange(order.size)
        for index, (weight, floor) in enumerate(zip(weights, floors)):
            places = [np.unique(place) for place in self._coupling.places[index]]
            while self._count_of(index, weight, stays) < floor:
                # Where the fewest stay another one adds most.
                free = [place[~stays[place] & (ranks[place] < order.size)] for place in places]
                fewest = sorted((np.count_nonzero(stays[place]), i) for i, place in enumerate(places) if free[i].size)
                if not fewest:
                    break
                chosen = free[fewest[0][1]]
                stays[chosen[np.argmin(ranks[chosen])]] = True
        return stays

    def _count(self, weights: Sequence[PrunableWeight], stays: np.ndarray) -> int:
        return sum(self._count_of(index, weight, stays) for index, weight in enumerate(weights))

    def _count_of(self, index: int, weight: PrunableWeight, stays: np.ndarray) -> int:
        """Returns how many entries of a weight are of use."""
        used = self._coupling.used(index, stays)
        return np.count_nonzero(used) * (weight.size // used.size)

    def _marks(self, weights: Sequence[PrunableWeight], marks: Sequence[np.ndarray]) -> np.ndarray:
        """Returns one flat array of what spreads to the shapes of the weights."""
        return np.concatenate([np.broadcast_to(each, weight.shape).ravel() for weight, each in zip(weights, marks)])
