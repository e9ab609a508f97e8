"""Flags that are lists: a wrong entry gets one sentence when flags are parsed, not a traceback an hour later."""

from __future__ import annotations

import math
from collections.abc import Collection

from absl import flags


def check_names(flag: str, known: Collection[str], least: int = 1) -> None:
    """Lets a list flag hold names that are known, and no others: one of them or more."""
    flags.register_validator(
        flag,
        lambda names: names is None or (len(names) >= least and set(names) <= set(known)),
        f"expected some of {', '.join(known)}.",
    )


def check_fractions(flag: str) -> None:
    """Lets a list flag hold fractions that may be removed: numbers in [0, 1)."""
    _check_numbers(flag, float, lambda value: 0 <= value < 1, "expected fractions in [0, 1), such as 0.5,0.9.")


def check_counts(flag: str, least: int = 1) -> None:
    """Lets a list flag hold whole numbers from the least on."""
    _check_numbers(flag, int, lambda value: value >= least, f"expected whole numbers of at least {least}.")


def check_positive(flag: str) -> None:
    """Lets a list flag hold positive numbers."""
    _check_numbers(flag, float, lambda value: 0 < value < math.inf, "expected positive numbers.")


def check_limits(flag: str, names: Collection[str]) -> None:
    """Lets a list flag hold limits of what is named, such as flops=0.25: positive numbers."""

    def is_limit(text):
        name, _, number = text.partition("=")
        try:
            return name in names and 0 < float(number) < math.inf
        except ValueError:
            return False

    flags.register_validator(
        flag,
        lambda texts: texts is None or (bool(texts) and all(map(is_limit, texts))),
        f"expected some of {', '.join(f'{name}=NUMBER' for name in names)}, with positive numbers.",
    )


def _check_numbers(flag, kind, is_right, message):
    def right(text):
        try:
            return is_right(kind(text))
        except ValueError:
            return False

    flags.register_validator(flag, lambda texts: texts is None or (bool(texts) and all(map(right, texts))), message)
