"""Checks of arguments: each returns the value, or raises one sentence that says what was expected and what came."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Sequence
from typing import Any


def fraction(name: str, value: Any) -> float:
    """Returns a number in [0, 1).

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of that range, or NaN.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"Expected `{name}` to be a number in [0, 1). Received: {name}={value!r}")
    if not 0 <= value < 1:  # also refuses NaN
        raise ValueError(f"Expected `{name}`, the part to remove, to be in [0, 1). Received: {name}={value!r}")
    return float(value)


def integer(name: str, value: Any, minimum: int) -> int:
    """Returns an integer of at least `minimum`.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is smaller.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"Expected `{name}` to be an integer of at least {minimum}. Received: {name}={value!r}")
    if value < minimum:
        raise ValueError(f"Expected `{name}` to be at least {minimum}. Received: {name}={value!r}")
    return int(value)


def number(name: str, value: Any, interval: str) -> float:
    """Returns a number in an interval.

    Args:
        name: The name of the argument.
        value: Its value.
        interval: Such as "[0, 1)", or "(0, inf)" for every positive finite number.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside, or NaN.
    """
    expected = f"Expected `{name}` to be a number in {interval}. Received: {name}={value!r}"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(expected)
    low, high = map(float, interval[1:-1].split(","))
    is_inside = (low < value or (interval[0] == "[" and value == low)) and (
        value < high or (interval[-1] == "]" and value == high)
    )
    if not is_inside:  # of NaN nothing is true
        raise ValueError(expected)
    return float(value)


def lengths(name: str, value: Sequence[Any]) -> tuple[int, ...]:
    """Returns integers of at least 1, at least one of them, as a tuple.

    Raises:
        TypeError: If one of them is no integer.
        ValueError: If there is none, or one is smaller.
    """
    if not all(isinstance(length, numbers.Integral) and not isinstance(length, bool) for length in value):
        raise TypeError(f"Expected `{name}` to hold integers of at least 1. Received: {name}={value!r}")
    if not value or min(value) < 1:
        raise ValueError(f"Expected `{name}` to hold integers of at least 1, one or more. Received: {name}={value!r}")
    return tuple(map(int, value))


def one_of(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Returns one of the choices.

    Raises:
        ValueError: If it is none of them; the nearest name is suggested.
    """
    if not isinstance(value, (str, int)) or value not in choices:
        names = [choice for choice in choices if isinstance(choice, str)]
        close = difflib.get_close_matches(str(value).lower(), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"Expected `{name}` to be one of {listed}.{hint} Received: {name}={value!r}")
    return value
