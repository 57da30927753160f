"""The figures of the paper, drawn from the cells: error against brightness, and loss against error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.slow_features.table import alarmed, chance, encoding_rmse, mean, rmse
from worldmodel.alarm import SlowFeatureAlarm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Json = Mapping[str, Any]
COLOURS = {  # one colour per objective in every figure
    "supervised": "#333333",
    "controllable": "#0a7d5a",
    "vicreg": "#c2410c",
    "simclr": "#e0a100",
    "sigreg": "#b0307c",
    "barlow": "#7a5195",
    "byol": "#9c6644",
    "idm": "#2563eb",
    "reconstruction": "#6b7280",
}
OTHERS = "#bbbbbb"
MOTIONS = ("fixed", "changing", "rolling")


def write_figures(cells: Sequence[Json], folder: Path) -> list[Path]:
    """Write ``slow_features_alpha.png`` and ``slow_features_loss.png`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (("slow_features_alpha", draw_alpha), ("slow_features_loss", draw_loss)):
        figure = draw(cells)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=144, metadata={"Software": None})
        written.append(path)
    return written


def draw_alpha(cells: Sequence[Json]) -> Figure:
    """Draw rollout error at t = 8 against the distractor's brightness, a panel per distractor and motion."""
    from matplotlib.figure import Figure

    dots = [cell for cell in cells if cell["world"] == "dot" and cell["lr"] is None]
    panels = [
        (distractor, motion)
        for distractor in ("uniform", "structured")
        for motion in MOTIONS
        if len({c["alpha"] for c in dots if (c["distractor"], c["motion"]) == (distractor, motion)}) > 1
    ] or [("uniform", "fixed")]
    figure = Figure(figsize=(3.9 * len(panels) + 1.6, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    level = mean(chance(cell, "8") for cell in dots)
    for one, (distractor, motion) in zip(axes, panels, strict=True):
        _alpha_panel(one, dots, distractor, motion)
        one.axhline(level, color="#999999", linewidth=1, linestyle=(0, (1, 2)))
        one.set_title(f"{motion} {distractor} distractor", loc="left", fontsize=10)
        one.set_xlabel("brightness of the distractor, alpha")
    axes[0].set_ylabel("rollout error at t = 8 [px]")
    axes[0].text(0, level, "chance ", va="bottom", fontsize=8, color="#777777")
    axes[0].set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _alpha_panel(axes: Axes, cells: Sequence[Json], distractor: str, motion: str) -> None:
    for objective, colour in COLOURS.items():
        mine = [
            cell
            for cell in cells
            if cell["objective"] == objective
            and (cell["distractor"] == "none" or (cell["distractor"], cell["motion"]) == (distractor, motion))
        ]
        by_alpha: dict[float, list[float]] = {}
        for cell in mine:
            value = rmse(cell)
            if value is not None:
                by_alpha.setdefault(cell["alpha"], []).append(value)
        if len(by_alpha) < 3:
            continue
        alphas = sorted(by_alpha)
        values = [mean(by_alpha[alpha]) for alpha in alphas]
        width = 2.4 if objective == "controllable" else 1.4
        axes.plot(alphas, values, color=colour, marker="o", markersize=3.5, linewidth=width, label=objective)
        low, high = ([pick(by_alpha[alpha]) for alpha in alphas] for pick in (min, max))
        axes.fill_between(alphas, low, high, color=colour, alpha=0.12, linewidth=0)
    _plain(axes)


def draw_loss(cells: Sequence[Json]) -> Figure:
    """Draw the error of a rollout against the objective's loss, and that of an encoding against what the alarm reads.

    Losses of different objectives have different units, so each is divided by its own without a distractor.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    dots = [cell for cell in cells if cell["world"] == "dot" and cell["lr"] is None]
    marks = {"fixed": "s", "changing": "o", "rolling": "^", "none": "x"}
    clean = {
        name: mean(cell["loss"] for cell in dots if (cell["objective"], cell["distractor"]) == (name, "none"))
        for name in {cell["objective"] for cell in dots}
    }
    for cell in dots:
        mark = marks["none" if cell["distractor"] == "none" else cell["motion"]]
        colour = COLOURS.get(cell["objective"], OTHERS)
        style: dict[str, Any] = {"marker": mark, "s": 24, "alpha": 0.85, "linewidths": 1.0}
        hollow = {"facecolors": "none", "edgecolors": colour} if mark != "x" else {"color": colour}
        ratio = (cell["loss"] or math.nan) / clean[cell["objective"]]
        if cell["objective"] in COLOURS and ratio > 0:
            left.scatter(ratio, rmse(cell), color=colour, **style)
        face = {"color": colour} if alarmed(cell) else hollow
        right.scatter(cell["diagnostics"]["action_r2"], encoding_rmse(cell), **face, **style)
    left.set_xscale("log")
    left.set_xlabel("held-out loss / loss without a distractor")
    left.set_ylabel("rollout error at t = 8 [px]")
    left.set_title("a low loss says nothing", loc="left", fontsize=10)
    right.set_xlabel("action readout, R²")
    right.set_ylabel("encoding error [px]")
    right.set_title("filled: the alarm rang", loc="left", fontsize=10)
    right.axvline(SlowFeatureAlarm().min_action_r2, color="#999999", linewidth=1, linestyle=(0, (5, 3)))
    for axes in (left, right):
        _plain(axes)
        axes.set_ylim(bottom=0)
    _legend(figure, dots, marks)
    return figure


def _legend(figure: Figure, cells: Sequence[Json], marks: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    present = {cell["objective"] for cell in cells}
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=5, label=name)
        for name, colour in COLOURS.items()
        if name in present
    ]
    handles.append(Line2D([], [], color=OTHERS, marker="o", linestyle="", markersize=5, label="others"))
    handles += [
        Line2D([], [], color="#333333", marker=mark, linestyle="", markersize=5, label=name)
        for name, mark in marks.items()
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, length=0)
