"""Cost-to-goal maps: critic, embedding distance and true distance over the positions of a room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.svg import INK, WALL, inline_svg
from benchmarks.report.wording import NBSP, missing, number, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = {"cost": "Critic", "embedding_distance": "Embedding distance", "true_distance": "True distance"}
_RANKED_AS = {"cost": "critic", "embedding_distance": "embedding_distance"}
_COLOURS = "viridis_r"  # safe for colour-blind readers; the goal is the bright end
_CAPTION = """Each world is coloured by how far from the goal (star) an agent at that position is said to be,
with one colour scale per column: contours that pour through doors and round corners, as those of the true
distance do, belong to a model that knows about walls; rings that run straight across them belong to one
that does not."""
_WIDTH = 200.0  # of a map [points]


def cost_maps_section(files: RunFiles) -> str:
    """Write the section from ``media/cost_map.json``."""
    data = files.cost_map
    if files.films:  # of a world that is no map
        return ""
    if not data or not data.get("maps"):
        body = missing("There are no cost maps yet.", files.evaluate_command)
        return f'<section id="cost-maps"><h2>Cost to the goal</h2>{body}</section>'
    maps = data["maps"]
    kinds = [kind for kind in _KINDS if any(entry.get(kind) for entry in maps)]
    scales = {kind: _scale([entry[kind] for entry in maps if entry.get(kind)]) for kind in kinds}
    cells = [_column_head(kind, scales[kind], data) for kind in kinds]
    for index, entry in enumerate(maps):
        cells += [_map(entry, kind, scales[kind], data["extent"], index) for kind in kinds]
    return f"""<section id="cost-maps"><h2>Cost to the goal</h2>
<div class="cost-maps" style="--columns:{len(kinds)}">{"".join(cells)}</div>
<p class="caption">{_CAPTION} {_ranks(data)}</p>
</section>"""


def _values(grid: list[list[float | None]]) -> np.ma.MaskedArray:
    """Turn rows with ``None`` inside walls into a masked array (rows, cols)."""
    return np.ma.masked_invalid(np.array(grid, dtype=float))


@dataclass(frozen=True)
class _Scale:
    """The colour scale that all maps of one kind share."""

    low: float
    high: float
    levels: list[float]  # round values strictly inside, where contours are drawn


def _scale(grids: list[list[list[float | None]]]) -> _Scale:
    """Span the values of all grids, with about nine contour levels."""
    from matplotlib.ticker import MaxNLocator

    finite = np.concatenate([_values(grid).compressed() for grid in grids])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1.0
    ticks = MaxNLocator(10, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    margin = 0.02 * (high - low)  # a contour at the very end is a speck
    return _Scale(low, high, [float(tick) for tick in ticks if low + margin < tick < high - margin])


def _column_head(kind: str, scale: _Scale, data: Json) -> str:
    """Name the column and draw its colour scale with the contour levels."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = ",".join(to_hex(colour) for colour in colormaps[_COLOURS](np.linspace(0, 1, 16)))
    unit = f"{NBSP}{text(data.get('unit', ''))}" if kind == "true_distance" else ""
    ticks = "".join(
        f'<i style="left:{100 * (level - scale.low) / (scale.high - scale.low):.1f}%"></i>'
        for level in scale.levels
    )
    return (
        f'<div class="map-head"><b>{_KINDS[kind]}</b>'
        f'<span class="ramp" style="background:linear-gradient(90deg,{stops})">{ticks}</span>'
        f'<span class="ramp-ends"><span>{number(scale.low, 2)}</span>'
        f"<span>{number(scale.high)}{unit}</span></span></div>"
    )


def _map(entry: Json, kind: str, scale: _Scale, extent: list[float], index: int) -> str:
    if not entry.get(kind):
        return "<div></div>"
    goal = entry["goal"]
    x0, y0, x1, y1 = extent

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        values = _values(entry[kind])
        rows, cols = values.shape
        axes.imshow(
            values,
            extent=(x0, x1, y1, y0),
            cmap=_COLOURS,
            vmin=scale.low,
            vmax=scale.high,
            interpolation="nearest",
        )
        if scale.levels:
            xs = x0 + (np.arange(cols) + 0.5) * (x1 - x0) / cols
            ys = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
            middle = (scale.low + scale.high) / 2
            line_colours = ["black" if level < middle else "white" for level in scale.levels]
            axes.contour(xs, ys, values, levels=scale.levels, colors=line_colours, linewidths=0.8, alpha=0.65)
        for rx0, ry0, rx1, ry1 in entry.get("rects") or []:
            axes.add_patch(Rectangle((rx0, ry0), rx1 - rx0, ry1 - ry0, facecolor=WALL, linewidth=0))
        axes.plot(*goal, marker="*", markersize=13, color="white", markeredgecolor="black", clip_on=False)
        axes.set(xlim=(x0, x1), ylim=(y1, y0), facecolor=WALL, xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(visible=True, color=INK, linewidth=0.4)

    label = f"{_KINDS[kind]} to the goal at {number(goal[0])}, {number(goal[1])}"
    svg = inline_svg(
        draw,
        size=(_WIDTH, _WIDTH * (y1 - y0) / (x1 - x0)),
        margins=(1, 1, 1, 1),
        key=f"map-{kind}-{index}",
        label=label,
    )
    return f'<div class="map">{svg}</div>'


def _ranks(data: Json) -> str:
    ranks = data.get("rank_correlation") or {}
    said = [
        f"{_KINDS[kind].lower()} <b>{ranks[key]:.3f}</b>"
        for kind, key in _RANKED_AS.items()
        if ranks.get(key) is not None
    ]
    return (
        f"Rank correlation with the true distance: {', '.join(said)} (1 is the same order)." if said else ""
    )
