"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], alignments: str) -> str:
    """Returns rows of cells as lines of columns, two spaces apart.

    Args:
        rows: The cells of each row, as many in each.
        alignments: A character for each column: "<" for text on the left, ">" for numbers on the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, alignments, widths)).rstrip() for row in rows)
    return "\n".join(lines)
