"""What is kept or pruned as one: a weight, a block of weights, one of the few that a pattern allows, or a channel."""

from __future__ import annotations

import re
from typing import Any

from force_tf.granularity.base import BoundGranularity, Granularity, Plan, Weights, split
from force_tf.granularity.blocks import Blocks
from force_tf.granularity.channels import Channels
from force_tf.granularity.pattern import Pattern
from force_tf.support import arguments

__all__ = [
    "Blocks",
    "BoundGranularity",
    "Channels",
    "Granularity",
    "Pattern",
    "Plan",
    "Weights",
    "check_scope",
    "resolve",
    "split",
]


_NAMED: dict[str, type[Granularity]] = {kind.value: kind for kind in (Weights, Channels)}


def check_scope(scope: Any, granularity: Granularity) -> str:
    """Returns what the scores are compared within, checked: "global", "layer" or "erk".

    Args:
        scope: What `scope=` says.
        granularity: What is kept or pruned as one.

    Raises:
        ValueError: If it is none of these, or does not go with the granularity.
    """
    scope = arguments.one_of("scope", scope, ("global", "layer", "erk"))
    if scope == "erk" and isinstance(granularity, Channels):
        raise ValueError(
            'Expected scope="global" or "layer" for whole channels. Received: scope="erk", granularity="channel"'
        )
    return scope


def resolve(value: Any) -> Granularity:
    """Returns what `granularity=` stands for.

    Args:
        value: "weight", "channel", the shape of a block as a tuple or list of integers, or a pattern such as "2:4".

    Raises:
        TypeError: If it is of another type.
        ValueError: If it is another string, a shape without a weight, or a pattern that prunes nothing or all.
    """
    if isinstance(value, (tuple, list)):
        return Blocks(arguments.lengths("granularity", value))
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value]()
    pattern = re.fullmatch("([0-9]+):([0-9]+)", value) if isinstance(value, str) else None
    if pattern is None:
        raise (ValueError if isinstance(value, str) else TypeError)(
            'Expected `granularity` to be "weight", "channel", the shape of a block such as (1, 4), or a pattern such '
            f'as "2:4". Received: granularity={value!r}'
        )
    n, m = map(int, pattern.groups())
    if not 0 < n < m:
        raise ValueError(
            'Expected `granularity` to be a pattern "N:M" that keeps N of every M weights, 0 < N < M. '
            f"Received: granularity={value!r}"
        )
    return Pattern(n, m)
