"""How the report writes numbers, names and escaped text."""

from __future__ import annotations

from html import escape
from typing import Any

MISSING = "–"
NBSP = "\u00a0"


def text(value: object) -> str:
    """Escape anything that came from a file for use in HTML text and in quoted attributes."""
    return MISSING if value is None else escape(str(value), quote=True)


def percent(rate: float | None, *, unit: bool = True) -> str:
    """Write a rate in 0..1 as a percentage with at most one decimal."""
    if rate is None:
        return MISSING
    return f"{100 * rate:.1f}".removesuffix(".0") + (f"{NBSP}%" if unit else "")


def interval(bounds: list[float] | None) -> str:
    """Write a 95 % interval of rates in 0..1 as ``lo–hi`` in percent, without the sign."""
    if not bounds:
        return MISSING
    return f"{percent(bounds[0], unit=False)}–{percent(bounds[1], unit=False)}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits and thousands grouped."""
    if value is None:
        return MISSING
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        decimals = 0 if abs(value) >= 10 ** (digits - 1) else digits
        written = f"{value:,.0f}" if decimals == 0 else f"{float(f'{value:.{digits}g}'):,f}"
        return written.rstrip("0").rstrip(".") if "." in written else written
    return f"{value:.{digits}g}"


def median_and_p90(summary: dict[str, Any] | None, digits: int = 3) -> str:
    """Write a ``{"median", "p90"}`` object as ``median / p90``."""
    if not summary or summary.get("median") is None:
        return MISSING
    return f"{number(summary['median'], digits)}{NBSP}/{NBSP}{number(summary.get('p90'), digits)}"


def duration(seconds: float | None) -> str:
    """Write seconds as people say them: ``42 s``, ``7 min 12 s``, ``2 h 05 min``."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{number(seconds, 2)}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def title(name: str) -> str:
    """Turn a key such as ``world_model`` into ``World model``."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def copyable(command: str) -> str:
    """Show a shell command with a button that copies it."""
    return (
        f'<div class="command"><code>{text(command)}</code>'
        '<button type="button" class="copy" aria-label="Copy the command">Copy</button></div>'
    )


def missing(what: str, command: str) -> str:
    """Say that a section has nothing to show yet, and which command fills it."""
    return f'<div class="missing"><p>{what} This command fills the section:</p>{copyable(command)}</div>'
