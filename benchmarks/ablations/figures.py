"""The figures of the ablations, drawn from their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
AGENTS = {"mode-2": ("plan", "#0a7d5a"), "mode-1": ("react", "#2563eb")}
STATISTIC_COLOUR = "#5f6368"
AXES = {  # label of the axis, and its scale
    "data-size": ("transitions", "log"),
    "trajectory-length": ("frames per trajectory", "linear"),
    "data-quality": ("share of good trajectories", "linear"),
}
STATISTICS = {
    "rankme": "RankMe",
    "between_trajectory_share": "between-trajectory\nshare of the variance",
    "distance_geodesic": "rank correlation with\nthe true distance",
}
MOTION_STATISTICS = {  # the distance of the task is not how many steps a swing-up takes
    "action_r2": "actions read off\nthe motion, R²",
    "identity_ratio": 'error over that of\n"nothing changes"',
}


def write_figure(name: str, rows: Sequence[Row], path: Path) -> None:
    """Draw the ablations ``name`` to a PNG."""
    if name in AXES:
        figure = _draw_curve(rows, *AXES[name])
    else:
        figure = _draw_names(rows, MOTION_STATISTICS if name == "motion" else STATISTICS)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=144, metadata={"Software": None})


def _draw_curve(rows: Sequence[Row], label: str, scale: str) -> Figure:
    """Success over the axis: the mean over seeds as a line, each seed as a dot."""
    figure, (one,) = _panels(1, width=4.4, height=2.8)
    for agent, (word, colour) in AGENTS.items():
        ours = [row for row in rows if agent in row["agents"]]
        if not ours:
            continue
        points = [(row["value"], 100 * row["agents"][agent]["success_rate"]) for row in ours]
        values = sorted({value for value, _ in points})
        means = [_mean([rate for at, rate in points if at == value]) for value in values]
        one.plot(values, means, color=colour, label=word)
        one.plot(*zip(*points, strict=True), "o", color=colour, ms=3)
    one.set_xscale(scale)
    one.set_xlabel(label)
    one.set_ylabel("success [%]")
    one.set_ylim(-3, 103)
    _legend(figure, one)
    return figure


def _draw_names(rows: Sequence[Row], statistics: Mapping[str, str]) -> Figure:
    """A line per cell: success, and the statistics that no label is needed for; each seed is a dot."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    shown = [key for key in statistics if any(row["diagnostics"].get(key) is not None for row in rows)]
    figure, panels = _panels(1 + len(shown), width=1.9, height=0.7 + 0.26 * len(names), margin=2.6)
    for agent, (word, colour) in AGENTS.items():
        if any(agent in row["agents"] for row in rows):
            _dots(panels[0], names, rows, partial(_rate, agent=agent), colour, word)
    panels[0].set_xlim(-3, 103)
    panels[0].set_xlabel("success [%]")
    for one, key in zip(panels[1:], shown, strict=True):
        _dots(one, names, rows, partial(_statistic, key=key), STATISTIC_COLOUR)
        one.set_xlabel(statistics[key])
        low, high = one.get_xlim()
        one.set_xlim(min(0.0, low), 1.05 * high)  # small differences look small
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)  # the first on top
    _legend(figure, panels[0])
    return figure


def _dots(
    one: Axes,
    names: Sequence[str],
    rows: Sequence[Row],
    read: Callable[[Row], float | None],
    colour: str,
    label: str | None = None,
) -> None:
    points = [(read(row), names.index(row["name"])) for row in rows]
    points = [point for point in points if point[0] is not None]
    if points:
        one.plot(*zip(*points, strict=True), "o", color=colour, ms=4, alpha=0.8, label=label)


def _rate(row: Row, agent: str) -> float | None:
    return 100 * row["agents"][agent]["success_rate"] if agent in row["agents"] else None


def _statistic(row: Row, key: str) -> float | None:
    return row["diagnostics"].get(key)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _panels(
    number: int, *, width: float, height: float, margin: float = 1.2
) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * number + margin, height), layout="constrained")
    panels = figure.subplots(1, number, squeeze=False, sharey=True)[0]
    for one in panels:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#dddddd", lw=0.5)
        one.tick_params(labelsize=8)
    return figure, panels


def _legend(figure: Figure, one: Axes) -> None:
    handles, labels = one.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
