"""The grid as a table: means over seeds, a row per objective, a column per condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

Json = Mapping[str, Any]
Read = Callable[[Json], float | None]  # a number of a cell's result


def condition_of(cell: Json) -> tuple[str, str, str, float]:
    """Return what a cell was trained on: world, distractor, motion, alpha."""
    return cell["world"], cell["distractor"], cell["motion"], cell["alpha"]


def rmse(cell: Json, what: str = "rollout", at: str = "8", target: str = "position") -> float | None:
    """Return a probe error of a cell [px]: of the ``rollout`` at a step, or of the ``encoding`` at a frame."""
    probe = cell["probes"].get(target)
    return None if probe is None else probe[what]["rmse"].get(at)


def encoding_rmse(cell: Json, target: str = "position") -> float | None:
    """Return the probe error on encodings over all frames [px]."""
    return rmse(cell, "encoding", "all", target)


def chance(cell: Json, at: str = "all", target: str = "position") -> float:
    """Return the error of always guessing the mean [px], at a frame or over all of them."""
    return float(cell["probes"][target]["chance"]["rmse"][at])


def diagnostic(name: str) -> Read:
    """Return a reader of one label-free diagnostic."""
    return lambda cell: cell["diagnostics"].get(name)


def success(cell: Json) -> float | None:
    """Return the success rate of planning by embedding distance [%]; None where none was made."""
    return None if cell["planning"] is None else 100 * cell["planning"]["success_rate"]


def alarmed(cell: Json) -> float:
    """Return 1 where the alarm rang."""
    return float(cell["alarm"] is not None)


COLUMNS: dict[str, tuple[Read, str]] = {  # name -> reader and format
    "enc px": (encoding_rmse, ".2f"),
    "roll px": (rmse, ".2f"),
    "share": (diagnostic("between_trajectory_share"), ".2f"),
    "rank": (diagnostic("rankme"), ".0f"),
    "act R²": (diagnostic("action_r2"), ".2f"),
    "alarm": (alarmed, ".0%"),
    "plan%": (success, ".0f"),
}


def group(cells: Iterable[Json]) -> dict[tuple[str, tuple[str, str, str, float]], list[Json]]:
    """Collect the seeds of every objective and condition, those of the tuned column apart."""
    grouped: dict[tuple[str, tuple[str, str, str, float]], list[Json]] = {}
    for cell in cells:
        if cell["lr"] is None:
            grouped.setdefault((cell["objective"], condition_of(cell)), []).append(cell)
    return grouped


def mean(values: Iterable[float | None]) -> float:
    """Return the mean of what is there, NaN of nothing."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def tuned(cells: Iterable[Json]) -> dict[str, tuple[float | None, float]]:
    """Return the tuned column: the learning rate of the smallest rollout error of each objective, and that error [px].

    The rate is None where the setting of all cells was the best of those tried on the same data and seed.
    """
    cells = list(cells)
    best: dict[str, tuple[float | None, float]] = {}
    tried = {(c["objective"], condition_of(c), c["seed"]) for c in cells if c["lr"] is not None}
    for cell in cells:
        error = rmse(cell)
        if (cell["objective"], condition_of(cell), cell["seed"]) not in tried or error is None:
            continue
        if cell["objective"] not in best or error < best[cell["objective"]][1]:
            best[cell["objective"]] = cell["lr"], error
    return best


def describe(condition: tuple[str, str, str, float]) -> str:
    """Name a condition in a few words."""
    world, distractor, motion, alpha = condition
    prefix = "" if world == "dot" else f"{world} "
    return f"{prefix}none".strip() if distractor == "none" else f"{prefix}{motion} {distractor} {alpha:g}"


def cells_table(cells: Sequence[Json]) -> Table:
    """Return the terminal's table: a section per condition, a row per objective, means over seeds."""
    table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("objective", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for (objective, condition), seeds in sorted(
        group(cells).items(), key=lambda item: (item[0][1], item[0][0])
    ):
        if condition != last:
            table.add_section()
            table.add_row(f"[bold]{describe(condition)}[/bold]")
        last = condition
        values = [_format(mean(read(cell) for cell in seeds), form) for read, form in COLUMNS.values()]
        table.add_row(f" {objective}", *values)
    if found := tuned(cells):
        table.add_section()
        table.add_row("[bold]best learning rate[/bold]")
        for objective, (lr, error) in found.items():
            name = f" {objective}, {'as above' if lr is None else f'lr {lr:g}'}"
            table.add_row(name, "", _format(error, ".2f"))
    return table


def _format(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def markdown_table(
    cells: Sequence[Json],
    objectives: Mapping[str, str],
    conditions: Sequence[tuple[str, str, str, float]],
    read: Read = rmse,
    form: str = ".2f",
    *,
    title: str,
    worst: Callable[[Sequence[float]], float] = max,
) -> str:
    """Return a number per objective and condition: mean over seeds, the worst in brackets, ⚠ where the alarm rang.

    Args:
        cells: results.
        objectives: name -> words, in the order of the rows.
        conditions: in the order of the columns.
        read: the number.
        form: how it is written.
        title: of the first column.
        worst: chooses the worst of several seeds.
    """
    grouped = group(cells)
    names = [
        "none" if c[1] == "none" and c[0] == "dot" else describe(c).removesuffix(" 1") for c in conditions
    ]
    lines = [f"| {title} | " + " | ".join(names) + " |", "|---|" + "---|" * len(conditions)]
    for name, words in objectives.items():
        entries = [_entry(grouped.get((name, condition), []), read, form, worst) for condition in conditions]
        lines.append(f"| {words} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _entry(seeds: Sequence[Json], read: Read, form: str, worst: Callable[[Sequence[float]], float]) -> str:
    values = [value for value in (read(cell) for cell in seeds) if value is not None]
    if not values:
        return "–"
    rang = round(sum(alarmed(cell) for cell in seeds))
    bell = "" if rang == 0 else " ⚠" if rang == len(seeds) else f" ⚠ {rang}/{len(seeds)}"
    return f"{mean(values):{form}} ({worst(values):{form}}){bell}"


def slim(cell: Json) -> dict[str, Any]:
    """Return what of a cell goes into the committed results: errors without R^2, four significant digits."""
    probes = {
        target: {
            part: {"rmse": probe[part]["rmse"]} for part in ("encoding", "rollout", "transfer", "chance")
        }
        for target, probe in cell["probes"].items()
    }
    alarm = None if cell["alarm"] is None else {key: cell["alarm"][key] for key in ("kind", "step")}
    return _rounded({**cell, "probes": probes, "alarm": alarm})


def _rounded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
