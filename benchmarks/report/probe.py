"""How far the imagined dot drifts from the true one along an open-loop rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report.run_files import RunFiles
from benchmarks.report.svg import ACCENT, GOAL, INK, MUTED, inline_svg, set_log_scale
from benchmarks.report.wording import missing, number, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CAPTION = """the solid line is its error after that many predicted steps, and a good model keeps it close
to the dashed line, the error on encoded observations, and far below the dotted line, the error of always
guessing the mean."""
_NAME_HEIGHT = 0.07  # least distance between two names, as a share of the figure
_LOG_ABOVE = 8.0  # ratio of the largest to the smallest error at which a linear axis hides the small ones


def probe_section(files: RunFiles) -> str:
    """Write the section from ``media/probe.json``."""
    data = files.probe
    if files.films:  # of a world that is no map
        return ""
    if not data or not data.get("rmse"):
        body = missing("The probe has not been evaluated.", files.evaluate_command)
        return f'<section id="probe"><h2>Imagination against truth</h2>{body}</section>'
    steps, rmse = data.get("steps") or list(range(1, len(data["rmse"]) + 1)), data["rmse"]
    chance, encoding = data.get("chance"), data.get("encoding_rmse")
    unit, target = data.get("unit", ""), data.get("target", "target")

    last = next((value for value in reversed(rmse) if value is not None), None)
    lines = [
        (name, value, colour, style)
        for name, value, colour, style in (
            ("imagined", last, ACCENT, "solid"),
            ("chance", chance, MUTED, (0, (1, 2))),
            ("encoded", encoding, GOAL, (0, (5, 3))),
        )
        if value is not None
    ]

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.plot(steps, [float("nan") if e is None else e for e in rmse], color=ACCENT, linewidth=1.8)
        for name, value, colour, style in lines:
            if name != "imagined":
                axes.axhline(value, color=colour, linewidth=1.2, linestyle=style)
        errors = [value for value in (*rmse, chance, encoding) if value is not None]
        if errors and min(errors) > 0 and max(errors) / min(errors) > _LOG_ABOVE:
            set_log_scale(axes, min(errors), max(errors), most=7)
        else:
            axes.set_ylim(0, 1.1 * max(errors, default=1.0) or 1.0)
        axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.set_xlabel("steps imagined without looking", color=INK)
        axes.set_title(
            f"RMSE of the {target} [{unit}]".replace("$", r"\$"), loc="left", fontsize=8, color=INK
        )
        _name_lines(axes, {name: (value, colour) for name, value, colour, _ in lines})

    svg = inline_svg(
        draw,
        size=(350, 190),
        margins=(32, 30, 84, 20),
        key="probe",
        label=f"Probe error of the {target} along an open-loop rollout",
    )
    rollouts = data.get("num_rollouts")
    over = f" over {number(rollouts, 9)} rollouts" if rollouts is not None else ""
    return f"""<section id="probe"><h2>Imagination against truth</h2>
<div class="figure wide">{svg}</div>
<p class="caption">A probe reads the {text(target)} out of the embedding{over}: {_CAPTION}</p></section>"""


def _name_lines(axes: Axes, lines: dict[str, tuple[float, str]]) -> None:
    """Name each line at its right end instead of in a legend, the names pushed apart where lines meet."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    lowest = -1.0
    for name, (value, colour) in sorted(lines.items(), key=lambda item: item[1][0]):
        height = max(float(to_fraction.transform((right, value))[1]), lowest + _NAME_HEIGHT)
        lowest = height
        axes.text(
            1.01, height, f"{name} {number(value)}", transform=axes.transAxes, color=colour, va="center"
        )
