"""How many weights each step of a search keeps, and where: checked before any work."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from force_tf import schedules
from force_tf.granularity import BoundGranularity, Plan
from force_tf.models.weights import PrunableWeight


def make_plan(
    weights: Sequence[PrunableWeight],
    granularity: BoundGranularity,
    densities: Sequence[float],
    *,
    sparsity: float,
    schedule: Any,
    scope: str,
    min_per_layer: int,
    revive: bool,
) -> Plan:
    """Returns what every step keeps.

    Args:
        weights: The prunable weights, in model order.
        granularity: What is kept or pruned as one, for these weights.
        densities: The density of each step.
        sparsity: The setting of `PruneAtInit` that the last density stands for.
        schedule: Its setting that the densities stand for.
        scope: As in `PruneAtInit`.
        min_per_layer: As in `PruneAtInit`.
        revive: As in `PruneAtInit`.

    Raises:
        ValueError: If the granularity cannot keep or prune so much, the floors need more, or a density rises while
            pruned weights may not return.
    """
    sizes = [granularity.units(weight) for weight in weights]
    counts = [round(sum(sizes) * density) for density in densities]
    floors = [granularity.floor(weight, min_per_layer) for weight in weights]
    _check_sparsity(sparsity, weights, granularity, counts)
    needed = granularity.fewest(weights, floors)
    if needed > min(counts):
        raise ValueError(
            f"Expected a `min_per_layer` that {min(counts):,} kept {granularity.unit} can fill; over "
            f"{len(weights)} tensors it needs {needed:,}. Lower it or `sparsity`. "
            f"Received: min_per_layer={min_per_layer}"
        )
    if not revive and any(now > before for before, now in itertools.pairwise(counts)):
        raise ValueError(
            "Expected a schedule whose density never rises, since pruned weights may not return (or pass "
            f"revive=True). Received: schedule={schedule!r}"
        )
    one_by_one = schedules.get(schedule) is schedules.one_by_one
    if one_by_one and (revive or granularity.value != "channel"):
        raise ValueError(
            'Expected granularity="channel" and revive=False for schedule="one_by_one", which prunes one channel in '
            f"each step. Received: granularity={granularity.value!r}, revive={revive!r}"
        )
    return Plan(weights, densities, sizes, floors, counts, scope, revive, one_by_one)


def _check_sparsity(
    sparsity: float, weights: Sequence[PrunableWeight], granularity: BoundGranularity, counts: Sequence[int]
) -> None:
    """Raises if the granularity cannot keep so many units."""
    unit, total = granularity.unit, sum(granularity.units(weight) for weight in weights)
    most = sum(granularity.limit(weight) for weight in weights)
    if min(counts) < 1:
        raise ValueError(
            f"Expected a sparsity that leaves at least one of the {total:,} prunable {unit}. "
            f"Received: sparsity={sparsity}"
        )
    if counts[-1] > most:
        raise ValueError(
            f"Expected a sparsity of at least {1 - most / total:.12g}, since granularity={granularity.value!r} "
            f"lets {most:,} of the {total:,} prunable {unit} stay. Received: sparsity={sparsity}"
        )
    fixed = granularity.fewest(weights, [0] * len(weights))
    if fixed > min(counts):
        raise ValueError(
            f"Expected a sparsity of at most {1 - fixed / total:.12g}, since granularity={granularity.value!r} "
            f"cannot remove {fixed:,} of the {total:,} prunable {unit}. Received: sparsity={sparsity}"
        )
