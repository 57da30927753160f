"""What probes read off encodings and rollouts, per target: a figure over the horizon, and its numbers as the legend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.svg import ACCENT, GOAL, INK, MUTED, inline_svg
from benchmarks.report.wording import missing, number, text, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOLID, _DASHED, _DOTTED = (), (5.0, 2.0), (1.0, 2.0)
_LINES = (  # name, keys in probes.json, colour, dashes
    ("rollout", ("rollout",), ACCENT, _SOLID),
    ("encoding", ("encoding",), ACCENT, _DASHED),
    ("transfer", ("transfer",), ACCENT, _DOTTED),
    ("supervised rollout", ("supervised", "rollout"), GOAL, _SOLID),
    ("supervised encoding", ("supervised", "encoding"), GOAL, _DASHED),
    ("random rollout", ("random", "rollout"), MUTED, _SOLID),
    ("random encoding", ("random", "encoding"), MUTED, _DASHED),
    ("chance", ("chance",), INK, _DOTTED),
)
_Line: TypeAlias = tuple[str, list[float], str, tuple[float, ...]]  # name, number per horizon, colour, dashes
_VARIABLES = {ACCENT: "var(--accent)", GOAL: "var(--goal)", MUTED: "var(--muted)", INK: "var(--ink)"}
_MEASURES = {"rmse": "RMSE", "r2": "R²", "accuracy": "accuracy"}
_MOST_OF_CHANCE = 1.4  # an error beyond this share of chance is cut off the figure; the table has it
_LEAST_R2 = -0.25  # what is below is cut off
_CAPTION = """A probe reads the target off frozen embeddings, and is judged on trajectories that it was not fitted
on. <em>Encoding</em>: of frame t. <em>Rollout</em>: of the prediction of frame t from frame 0 and the actions, by one
probe for all steps. <em>Transfer</em>: the encoding's probe read on predictions, which works where both lie on one
scale. <em>Random</em> is the same architecture untrained, <em>supervised</em> the same trained briefly on the target
itself, <em>chance</em> always the training mean or the most frequent class. Values far beyond chance leave the figure."""


def probes_section(files: RunFiles) -> str:
    """Write the section from ``probes.json``."""
    probes = (files.probes or {}).get("probes") or []
    drawn = [_probe(index, probe) for index, probe in enumerate(probes) if isinstance(probe, dict)]
    if not any(drawn):
        body = missing("Nothing has been probed with labels.", files.probe_command)
        return f'<section id="probes"><h2>What can be read off the embedding</h2>{body}</section>'
    return f"""<section id="probes"><h2>What can be read off the embedding</h2>
{"".join(drawn)}
<p class="caption">{_CAPTION}</p></section>"""


def _probe(index: int, probe: Json) -> str:
    """Write one target; empty where the file has no numbers for it."""
    measure, horizons = str(probe.get("measure")), probe.get("horizons") or []
    lines: list[_Line] = [
        (name, values, colour, dashes)
        for name, path, colour, dashes in _LINES
        if (values := _values(probe, path, measure, horizons)) is not None
    ]
    if not lines or measure not in _MEASURES:
        return ""
    name = str(probe.get("target", "target"))
    unit = f" [{probe['unit']}]" if probe.get("unit") and measure == "rmse" else ""
    what = f"{_MEASURES[measure]}{unit}"
    facts = [f"{text(probe.get('kind'))} probe"]
    if probe.get("num_test") is not None:
        facts.append(f"{number(probe['num_test'], 9)} held-out trajectories of {text(probe.get('store'))}")

    def draw(axes: Axes) -> None:
        _draw(axes, horizons, lines, measure, what)

    svg = inline_svg(
        draw,
        size=(250, 150),
        margins=(28, 26, 8, 16),
        key=f"probes-{index}",
        label=f"{what} of {name} over the horizon",
    )
    return f"""<div class="stage"><h3>{text(title(name))} <small>{", ".join(facts)}</small></h3>
<div class="probed"><div class="figure">{svg}</div>{_table(horizons, lines, measure, what)}</div></div>"""


def _values(probe: Json, path: tuple[str, ...], measure: str, horizons: list[Any]) -> list[float] | None:
    """Return a line's number per horizon, NaN where there is none; None for a line that is not there."""
    found: Any = probe
    for key in (*path, measure):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return None
    return [_number_or_nan(found.get(str(horizon))) for horizon in horizons]


def _draw(axes: Axes, horizons: list[Any], lines: list[_Line], measure: str, what: str) -> None:
    for _, values, colour, dashes in reversed(lines):  # the model's own lines on top
        axes.plot(
            horizons,
            values,
            color=colour,
            linewidth=1.6 if colour == ACCENT else 1.2,
            linestyle=(0, dashes) if dashes else "solid",
            marker="o" if len(horizons) == 1 or not dashes else None,
            markersize=2.5,
        )
    known = [value for _, values, _, _ in lines for value in values if not math.isnan(value)]
    if measure == "rmse":
        chance = [value for name, values, _, _ in lines for value in values if name == "chance"]
        most = _MOST_OF_CHANCE * max((value for value in chance if value > 0), default=math.inf)
        axes.set_ylim(0, min(most, 1.08 * max(known, default=1.0)) or 1.0)
    else:
        axes.set_ylim(max(_LEAST_R2, min(0.0, *known)) if known else 0.0, 1.02)
    axes.set_xlim(0, 1.03 * max(horizons))
    axes.set_xticks(horizons)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.set_xlabel("steps t", color=INK, labelpad=1)
    axes.set_title(what.replace("$", r"\$"), loc="left", fontsize=8, color=INK)


def _table(horizons: list[Any], lines: list[_Line], measure: str, what: str) -> str:
    head = "".join(f'<th scope="col">t = {text(horizon)}</th>' for horizon in horizons)
    rows = "".join(
        f'<tr><th scope="row">{_swatch(colour, dashes)}{name}</th>'
        + "".join(f"<td>{_written(value, measure)}</td>" for value in values)
        + "</tr>"
        for name, values, colour, dashes in lines
    )
    return (
        f'<table><thead><tr><th scope="col">{text(what)}</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _written(value: float, measure: str) -> str:
    """Write an error with three digits, a share with three decimals."""
    if math.isnan(value):
        return number(None)
    return number(value if measure == "rmse" else round(value, 3))


def _swatch(colour: str, dashes: tuple[float, ...]) -> str:
    dashed = " ".join(str(2 * dash) for dash in dashes) or "none"
    return (
        '<svg class="swatch" viewBox="0 0 24 6" aria-hidden="true"><line x1="0" y1="3" x2="24" y2="3" stroke-width="2" '
        f'style="stroke: {_VARIABLES[colour]}" stroke-dasharray="{dashed}"/>'
        "</svg>"
    )


def _number_or_nan(value: Any) -> float:  # noqa: ANN401
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
