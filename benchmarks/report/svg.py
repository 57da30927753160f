"""Matplotlib figures as inline SVG that follows the page's light and dark colours.

A figure is drawn with stand-in colours, which are replaced by CSS variables in the SVG text.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.report.wording import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, ACCENT, GOAL, WALL = ("#010201", "#010202", "#010203", "#010204", "#010205", "#010206")
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    GOAL: "var(--goal)",
    WALL: "var(--wall)",
}
_RC: dict[Any, Any] = {  # matplotlib types the keys as one long Literal
    "svg.fonttype": "none",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
}
_NEVER_IN_A_PAGE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
# Ids of groups are the same in every figure, and nothing refers to them.
_GROUP_IDS = re.compile(r' id="[A-Za-z0-9.]+_\d+"')


def inline_svg(
    draw: Callable[[Axes], None],
    *,
    size: tuple[float, float],
    margins: tuple[float, float, float, float],
    key: str,
    label: str,
) -> str:
    """Draw on one set of axes and return an ``<svg>`` element.

    Args:
        draw: fills the axes.
        size: width and height [points]; the page scales the figure to its column.
        margins: left, bottom, right, top [points], fixed so that figures in a row line up.
        key: distinguishes the SVG's inner references from those of other figures in the page.
        label: what a screen reader says.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    width, height = size
    left, bottom, right, top = margins
    with mpl.rc_context({**_RC, "svg.hashsalt": key}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=144)
        draw(
            figure.add_axes(
                (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
            )
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = _GROUP_IDS.sub("", _NEVER_IN_A_PAGE.sub("", buffer.getvalue())).strip()
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{text(label)}" ', 1)


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose at most ``most`` round numbers inside ``[low, high]`` for a logarithmic axis."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        ticks = [
            float(f"{step}e{exponent}")
            for exponent in range(first, last + 1)
            for step in steps
            if low <= float(f"{step}e{exponent}") <= high
        ]
        if len(ticks) <= most:
            return ticks
    stride = math.ceil(len(ticks) / most)
    return ticks[::-1][::stride][::-1]


def tick_text(value: float) -> str:
    """Write an axis tick in as few characters as it takes: ``0.05``, ``20``, ``3k``, ``5e-4``."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def set_log_scale(axes: Axes, low: float, high: float, most: int = 5) -> None:
    """Make the vertical axis logarithmic over ``[low, high]`` with plain numbers at round ticks."""
    low, high = low / 1.15, high * 1.15
    ticks = log_ticks(low, high, most)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [tick_text(tick) for tick in ticks])
    axes.minorticks_off()
