"""Paths of the same weights in two builds of a network, which differ by the numbers of layers without a name."""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Mapping

Shapes = Mapping[str, tuple[int, ...]]

ADVICE = (
    "Keras numbers layers without a name through the whole process: give layers names, or call `clear_session()` "
    "before each build"
)


def first_renumbered(
    shapes: Shapes, others: Shapes, optional: Shapes | None = None, left_out: Collection[str] = ()
) -> tuple[str, str] | None:
    """Returns two paths of one weight, if numbers at the ends of layers' names are all in which two builds differ.

    Args:
        shapes: Paths and shapes of weights.
        others: Those of another build.
        optional: Further ones of the first build that the other one may have.
        left_out: Paths of layers and weights that the other one may lack, as they are there.
    """
    mine, theirs = _grouped({**(optional or {}), **shapes}), _grouped(others)
    absent = {_without_numbers(path) for path in left_out}
    if any(len(paths) > len(mine[key]) for key, paths in theirs.items()):
        return None
    for path, shape in shapes.items():
        key = _without_numbers(path), tuple(shape)
        place = mine[key].index(path)
        if place >= len(theirs[key]) and not _is_below(key[0], absent):
            return None
    pairs = ((path, other) for key, paths in mine.items() for path, other in zip(paths, theirs[key]))
    return next(((path, other) for path, other in pairs if path != other), None)


def _grouped(shapes: Shapes) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    groups = collections.defaultdict(list)
    for path, shape in shapes.items():
        groups[_without_numbers(path), tuple(shape)].append(path)
    return groups


def _without_numbers(path: str) -> str:
    return re.sub(r"_\d+(?=/|$)", "", path)


def _is_below(path: str, ancestors: Collection[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in ancestors)
