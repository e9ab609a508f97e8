"""Cells of the tables that compare methods: what several seeds gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def spread(values: Sequence[float], digits: int) -> str:
    """Returns mean ± standard deviation of a sample, the mean of one value, or a dash for none."""
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def cell(rows: Sequence[dict[str, Any]], name: str, digits: int) -> str:
    """Returns the spread of a value, of how many seeds the outputs did not depend on the images, and how many diverged.

    The values of trainings that diverged do not count.
    """
    values = [row[name] for row in rows if not row.get("diverged")]
    counts = {"collapsed": sum(bool(row["collapsed"]) for row in rows), "diverged": len(rows) - len(values)}
    notes = ", ".join(f"{count} of {len(rows)} {what}" for what, count in counts.items() if count)
    return spread(values, digits) + (f" ({notes})" if notes else "")


def ticket_cell(tickets: Sequence[tuple[float, dict[str, Any]]], name: str, sparsity: float, digits: int) -> str:
    """Returns the spread of the rounds that trained nearest to a sparsity, and at what sparsity that was.

    Args:
        tickets: The last sparsity and the row of each ticket, with its `rounds` of (density, value).
        name: The value of the row that was trained last.
        sparsity: The sparsity of the column.
        digits: Decimals.
    """
    if not tickets:
        return "–"
    trained = [[*row["rounds"], (1.0 - last, row[name])] for last, row in tickets]
    nearest = [min(rounds, key=lambda each: abs(each[0] - (1.0 - sparsity))) for rounds in trained]
    return f"{spread([value for _, value in nearest], digits)} (at {100 - 100 * nearest[0][0]:.3g}%)"
