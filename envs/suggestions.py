"""Checks of arguments, with errors that name the rule, the value and what the caller probably meant."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the nearest of ``known``, else the list of what is known."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def check_choice(rule: str, value: object, choices: Iterable[str]) -> None:
    """Raise a ``ValueError`` that names ``rule`` unless ``value`` is one of ``choices``."""
    names = list(choices)
    if value not in names:
        raise ValueError(f"{rule} must be one of {names}, got {value!r}{did_you_mean(value, names)}")


def check_whole(rule: str, value: float, at_least: int) -> None:
    """Raise a ``ValueError`` that names ``rule`` unless ``value`` is whole and at least ``at_least``."""
    if not (math.isfinite(value) and int(value) == value and value >= at_least):
        raise ValueError(f"{rule} must be a whole number of at least {at_least}, got {value}")


def check_positive(rule: str, value: float) -> None:
    """Raise a ``ValueError`` that names ``rule`` unless ``value`` is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{rule} must be positive and finite, got {value}")
