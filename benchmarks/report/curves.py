"""Training curves: one small figure per loss term, one row of figures per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.svg import ACCENT, INK, inline_svg, set_log_scale, tick_text
from benchmarks.report.wording import missing, number, text, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_ABOVE = 20.0  # ratio of largest to smallest value at which the vertical axis becomes logarithmic
_MOST_POINTS = 400  # drawn per curve
_SMOOTH_FROM = 60  # points from which on a running median is drawn over the raw values
_LAST = ("grad_norm", "lr")  # figures at the end of a row
_CAPTION = f"""Loss first, then its terms before weighting, each over optimiser steps: the faint line is
what was logged, the strong one its running median; vertical axes are logarithmic where the values span more
than a factor of {_LOG_ABOVE:g}. Dots are the same term on held-out episodes."""
_NOT_DRAWN = ("stage", "step", "steps_per_s")
_ELSEWHERE = "diag_"  # prefix of label-free statistics, which have a section of their own
_HELD_OUT = "val_"  # prefix of a term on held-out episodes, drawn as dots over the term


def curves_section(files: RunFiles) -> str:
    """Write the section from ``metrics.jsonl``."""
    if not files.metrics:
        body = missing("No training has been logged.", files.train_command)
        return f'<section id="training"><h2>Training</h2>{body}</section>'
    stages: dict[str, list[Json]] = {}
    for line in files.metrics:
        stages.setdefault(str(line.get("stage", "training")), []).append(line)
    rows = "".join(_stage(name, lines) for name, lines in stages.items())
    return f"""<section id="training"><h2>Training</h2>
{rows}
<p class="caption">{_CAPTION}</p></section>"""


def _stage(name: str, lines: list[Json]) -> str:
    drawn = (
        key for line in lines for key in line if key not in _NOT_DRAWN and not key.startswith(_ELSEWHERE)
    )
    keys = dict.fromkeys(key for key in drawn if not key.startswith(_HELD_OUT))
    keys = dict.fromkeys([*(["loss"] if "loss" in keys else []), *(k for k in keys if k not in _LAST), *keys])
    figures = "".join(_curve(name, key, lines) for key in keys)
    last = lines[-1]
    facts = [f"{number(last.get('step'), 9)} steps"]
    rates = [line["steps_per_s"] for line in lines if _is_number(line.get("steps_per_s"))]
    if rates:
        facts.append(f"{number(float(np.median(rates)))} steps/s")
    return (
        f'<div class="stage"><h3>{text(title(name))} <small>{", ".join(facts)}</small></h3>'
        f'<div class="curves">{figures}</div></div>'
    )


def _curve(stage: str, key: str, lines: list[Json]) -> str:
    points = [(line.get("step", i), line[key]) for i, line in enumerate(lines) if _is_number(line.get(key))]
    if not points:
        return ""
    name_held_out = _HELD_OUT + key
    held_out = [
        (line.get("step", i), line[name_held_out])
        for i, line in enumerate(lines)
        if _is_number(line.get(name_held_out))
    ]
    steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        stride = -(-len(steps) // _MOST_POINTS)
        smooth = len(steps) >= _SMOOTH_FROM and key != "lr"
        axes.plot(
            steps[::stride],
            values[::stride],
            color=ACCENT,
            linewidth=0.8 if smooth else 1.5,
            alpha=0.35 if smooth else 1.0,
            marker="o" if len(steps) == 1 else None,
        )
        if smooth:
            axes.plot(steps[::stride], _running_median(values)[::stride], color=ACCENT, linewidth=1.5)
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o", color=INK, markersize=2.5, linestyle="none")
        low, high = float(values.min()), float(values.max())
        if low > 0 and high / low > _LOG_ABOVE:
            set_log_scale(axes, low, high)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: tick_text(tick)))
            if low >= 0:
                axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: tick_text(tick)))
        axes.grid(axis="y")
        axes.tick_params(length=0)
        name = key.replace("_", " ").replace("$", r"\$")
        axes.set_title(name, loc="left", fontsize=8, color=INK)
        axes.set_title(number(float(values[-1])), loc="right", fontsize=8, color=ACCENT)

    svg = inline_svg(
        draw, size=(164, 104), margins=(28, 14, 6, 16), key=f"{stage}-{key}", label=f"{title(stage)}: {key}"
    )
    return f'<div class="figure">{svg}</div>'


def _running_median(values: np.ndarray) -> np.ndarray:
    """Smooth with a centred window of a thirtieth of the curve, shortened at both ends."""
    half = max(1, len(values) // 60)
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
