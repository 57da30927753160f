"""The figures of the studies, drawn from their rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
COST_COLOURS = {
    "last_distance": "#9aa0a6",
    "summed_distance": "#5f6368",
    "critic": "#2563eb",
    "summed_critic": "#0a7d5a",
    "critic+last_distance": "#c2410c",
    "task": "#7a5195",
}
AGENT_COLOURS = {"mode-2": "#0a7d5a", "mode-1": "#2563eb", "oracle": "#9aa0a6"}
POLICY_COLOURS = {"imagination": "#2563eb", "dagger": "#c2410c", "inverse": "#7a5195", None: "#0a7d5a"}
SPARE = "#333333"
MAX_COLUMNS = 5  # panels beside each other
FACTOR_UNITS = {
    "door_size": "door [px]",
    "wall_width": "wall [px]",
    "speed": "speed [of the data's]",
    "dot_size": "dot's std [px]",
    "action_noise": "noise per step [action units]",
    "dot_color": "dot, red to blue",
    "wall_color": "wall, slate to brown",
    "min_detour": "way / straight line, at least",
    "mass": "mass [of the data's]",
    "gain": "gain [of the data's]",
    "damping": "damping [of the data's]",
    "friction": "friction [of the data's]",
    "link_length": "links [of the data's]",
    "stem_length": "T's stem [of the data's]",
    "pole_length": "pole [of the data's]",
    "ball_size": "ball drawn [of the data's]",
    "camera_zoom": "zoom of the camera",
    "texture": "texture of the background",
    "num_distractors": "distractors",
    "together": "all, of the way to their last",
    "background_color": "background,\nwhite to green",
}


def write_figure(name: str, rows: Sequence[Row], path: Path) -> None:
    """Draw the study ``name`` to a PNG."""
    figure = {"planners": draw_planners, "policies": draw_policies, "generalisation": draw_generalisation}[
        name
    ](rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=144, metadata={"Software": None})


def draw_planners(rows: Sequence[Row]) -> Figure:
    """Draw success and milliseconds per action over the horizon: a column per planner, a line per cost."""
    planners = _distinct(rows, "planner")
    figure, axes = _panels(2, len(planners), height=2.5)
    for column, planner in enumerate(planners):
        for cost in _distinct(rows, "cost"):
            ours = _sorted(rows, "horizon", planner=planner, cost=cost)
            if not ours:
                continue
            horizons = [row["labels"]["horizon"] for row in ours]
            _rate(axes[0][column], horizons, ours, COST_COLOURS.get(cost, SPARE), cost.replace("_", " "))
            axes[1][column].plot(
                horizons,
                [row["plan_ms"]["mean"] for row in ours],
                color=COST_COLOURS.get(cost, SPARE),
                marker="o",
                ms=3,
            )
        axes[0][column].set_title(planner.replace("_", " + "), fontsize=9)
        for one in (axes[0][column], axes[1][column]):
            one.set_xscale("log", base=2)
            ticks = _distinct(rows, "horizon")
            one.set_xticks(ticks, [str(tick) for tick in ticks])
        axes[1][column].set_yscale("log")
        axes[1][column].set_xlabel("horizon [steps]")
    axes[1][0].set_ylabel("ms per action")
    _legend(figure, axes[0][0])
    return figure


def draw_policies(rows: Sequence[Row]) -> Figure:
    """Draw success over the planner's samples: alone, warm-started by each policy; policies alone are dashed."""
    figure, axes = _panels(1, 1, height=3.2, width=5.4)
    one = axes[0][0]
    for policy in [None, *[name for name in _distinct(rows, "policy") if name is not None]]:
        mode, colour = ("2" if policy is None else "2+1"), POLICY_COLOURS.get(policy, SPARE)
        ours = _sorted(rows, "samples", mode=mode, policy=policy)
        label = "planner alone" if policy is None else f"warm-started by {policy}"
        _rate(one, [row["labels"]["samples"] for row in ours], ours, colour, label)
        for row in _sorted(rows, "samples", mode="1", policy=policy):
            one.axhline(
                100 * row["success_rate"], color=colour, ls="--", lw=1, label=f"{policy} without a planner"
            )
    one.set_xscale("log", base=2)
    ticks = sorted({row["labels"]["samples"] for row in rows if row["labels"]["samples"]})
    one.set_xticks(ticks, [str(tick) for tick in ticks])
    one.set_xlabel("samples per iteration of the planner")
    _legend(figure, one)
    return figure


def draw_generalisation(rows: Sequence[Row]) -> Figure:
    """Draw success over each factor of variation, a panel per factor, a line per agent; five panels in a row at most."""
    factors = _distinct(rows, "factor")
    lines = math.ceil(len(factors) / MAX_COLUMNS)
    figure, axes = _panels(lines, math.ceil(len(factors) / lines), height=2.6)
    for line in axes[1:]:
        line[0].set(ylabel="success [%]", ylim=(-3, 103))
    panels = list(axes.ravel())
    for spare in panels[len(factors) :]:
        spare.set_visible(False)
    for one, factor in zip(panels[: len(factors)], factors, strict=True):
        for agent in _distinct(rows, "agent"):
            ours = _sorted(rows, "value", factor=factor, agent=agent)
            values = [row["labels"]["value"] for row in ours]
            label = {"mode-2": "plan", "mode-1": "react", "oracle": "plan on the true simulator"}.get(
                agent, agent
            )
            _rate(one, values, ours, AGENT_COLOURS.get(agent, SPARE), label)
        one.set_xlabel(FACTOR_UNITS.get(factor, factor))
    _legend(figure, axes[0][0])
    return figure


def _panels(rows: int, columns: int, *, height: float, width: float = 2.5) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 1.9, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row")
    for one in axes.ravel():
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#dddddd", lw=0.5)
        one.tick_params(labelsize=8)
    axes[0][0].set_ylabel("success [%]")
    axes[0][0].set_ylim(-3, 103)
    return figure, axes


def _rate(one: Axes, x: Sequence[float], rows: Sequence[Row], colour: str, label: str) -> None:
    """Success with its 95 % interval."""
    if not rows:
        return
    low, high = zip(*(row["ci95"] for row in rows), strict=True)
    one.fill_between(x, [100 * v for v in low], [100 * v for v in high], color=colour, alpha=0.12, lw=0)
    one.plot(x, [100 * row["success_rate"] for row in rows], color=colour, marker="o", ms=3, label=label)


def _legend(figure: Figure, one: Axes) -> None:
    handles, labels = one.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def _distinct(rows: Sequence[Row], label: str) -> list[Any]:
    return list(dict.fromkeys(row["labels"].get(label) for row in rows))


def _sorted(rows: Sequence[Row], by: str, **labels: Any) -> list[Row]:  # noqa: ANN401
    ours = [row for row in rows if all(row["labels"].get(key) == value for key, value in labels.items())]
    return sorted(ours, key=lambda row: row["labels"][by])
