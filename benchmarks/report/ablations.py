"""The page of a folder of ablations: a figure and a table per set."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from benchmarks.report.page import write_page
from benchmarks.report.run_files import Json, read_json_file
from benchmarks.report.wording import MISSING, copyable, number, percent, text, title

_SETS = {  # file, heading, what the figure shows
    "terms": ("Terms of the objective", "One term is left out at a time; a dot per seed."),
    "data-size": (
        "Number of transitions",
        "Fewer episodes of the same kind; a dot per seed, their mean as a line.",
    ),
    "trajectory-length": (
        "Length of trajectories",
        "As many transitions in shorter trajectories; a dot per seed, their mean as a line.",
    ),
    "data-quality": (
        "Quality of the data",
        "The share of trajectories that go somewhere; in the others every action is drawn by itself.",
    ),
    "door": (
        "Data without the door",
        "The same data, and data in which no trajectory passes through the door.",
    ),
    "motion": (
        "What shows motion",
        "One frame does not: velocities, or the step before, or nothing beside it; a dot per seed.",
    ),
}
_COLUMNS: dict[str, Callable[[Json], str]] = {
    "plan [%]": lambda row: _rate(row, "mode-2", "success_rate"),
    "plan, at the end [%]": lambda row: _rate(row, "mode-2", "success_rate_final"),
    "react [%]": lambda row: _rate(row, "mode-1", "success_rate"),
    "RankMe": lambda row: number(row["diagnostics"].get("rankme"), 2),
    "between-trajectory share": lambda row: number(row["diagnostics"].get("between_trajectory_share"), 2),
    "distance ~ true": lambda row: number(row["diagnostics"].get("distance_geodesic"), 2),
    "critic ~ true": lambda row: number(row["diagnostics"].get("critic_geodesic"), 2),
}
# The distance of cart-pole's task is not how many steps a swing-up takes.
_MOTION_COLUMNS: dict[str, Callable[[Json], str]] = {
    **{heading: _COLUMNS[heading] for heading in ("plan [%]", "plan, at the end [%]", "react [%]")},
    "react, at the end [%]": lambda row: _rate(row, "mode-1", "success_rate_final"),
    **{heading: _COLUMNS[heading] for heading in ("RankMe", "between-trajectory share")},
    "action R²": lambda row: number(row["diagnostics"].get("action_r2"), 2),
    "identity ratio": lambda row: number(row["diagnostics"].get("identity_ratio"), 2),
}


def holds_ablations(folder: Path) -> bool:
    """Tell whether a folder is one that ``bench ablations`` wrote: results of a set, and no run of its own."""
    return not (folder / "config.json").exists() and any((folder / f"{name}.json").exists() for name in _SETS)


def render_ablations(folder: Path) -> Path:
    """Write ``report.html`` from the sets of ablations in a folder, and return its path.

    Raises:
        ValueError: one of the files is malformed.
    """
    found = {name: read_json_file(folder / f"{name}.json") for name in _SETS}
    values = {name: value for name, value in found.items() if value is not None}
    for name, value in values.items():
        if value.get("ablations") != name or not isinstance(value.get("rows"), list):
            raise ValueError(
                f"{folder / name}.json must be written by `worldmodel bench ablations {name}`, got other keys: "
                f"{', '.join(value)}"
            )
    recipes = sorted({str(value["recipe"]) for value in values.values()})
    devices = sorted({str(value["device"]) for value in values.values()})
    correlations = (
        "; distance and critic ~ true are rank correlations of embedding distance, and of the critic, with the true "
        "distance to goals of the task"
        if values.keys() - {"motion"}
        else ""
    )
    head = f"""<header><p class="eyebrow">Ablations</p><h1>{text(folder.resolve().name)}</h1>
<p class="headline">The recipe {text(", ".join(recipes))}, trained again with one thing changed at a time and evaluated on
the same tasks, on {text(", ".join(devices))}. Values of several seeds stand one after the other. RankMe and the share of
the variance that lies between trajectories are of the same episodes for all that see the same{correlations}.</p>
</header>"""
    sections = {name: (_SETS[name][0], _section(folder, name, value)) for name, value in values.items()}
    return write_page(folder, title=folder.resolve().name, header=head, sections=sections)


def _section(folder: Path, name: str, value: Json) -> str:
    heading, about = _SETS[name]
    picture = folder / f"{name}.png"
    figure = ""
    if picture.exists():
        data = base64.b64encode(picture.read_bytes()).decode()
        figure = (
            f'<figure class="study"><img alt="{text(heading)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text(about)}</figcaption></figure>"
        )
    rows = value["rows"]
    cells = list(dict.fromkeys(row["name"] for row in rows))
    columns = _MOTION_COLUMNS if name == "motion" else _COLUMNS
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{text(title(cell))}</th>'
        + "".join(
            f"<td>{' / '.join(read(row) for row in rows if row['name'] == cell)}</td>"
            for read in columns.values()
        )
        + "</tr>"
        for cell in cells
    )
    seeds = ", ".join(str(seed) for seed in value["seeds"])
    return f"""<section id="{name}"><h2>{text(heading)}</h2>{figure}
<table class="ablations"><caption>Seeds {text(seeds)}</caption>
<thead><tr><th scope="col">Changed</th>{head}</tr></thead><tbody>{body}</tbody></table>
{copyable(value["command"])}</section>"""


def _rate(row: Json, agent: str, key: str) -> str:
    return percent(row["agents"][agent][key], unit=False) if agent in row["agents"] else MISSING
