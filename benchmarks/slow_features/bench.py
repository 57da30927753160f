"""``worldmodel bench slow-features``: run the grid, judge the alarm, write table, JSON and figures."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.display import progress_bar
from benchmarks.objectives import OBJECTIVES
from benchmarks.runs import command_line, read_json, versions, write_json
from benchmarks.slow_features.alarm_quality import alarm_quality
from benchmarks.slow_features.cells import Cell, Condition, cell_recipe, grid, select
from benchmarks.slow_features.figures import write_figures
from benchmarks.slow_features.grid import run_grid
from benchmarks.slow_features.table import cells_table, slim
from worldmodel.alarm import SlowFeatureAlarm


class GridError(ValueError):
    """A folder that holds another grid."""


def run_benchmark(
    out: Path,
    *,
    size: str,
    seeds: Sequence[int],
    objectives: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    device: str = "cpu",
    jobs: int | None = None,
    use_ray: bool = False,
    overrides: Sequence[str] = (),
    console: Console,
) -> dict[str, Any]:
    """Run the cells that ``out`` lacks and write ``slow_features.json`` and the figures into it.

    Args:
        out: folder of the benchmark; the same call goes on where a killed one stopped.
        size: ``smoke``, ``small`` or ``full``.
        seeds: of data and training.
        objectives: only these; None is all.
        conditions: only those whose name holds one of these texts; None is all.
        device: of the networks.
        jobs: worker processes.
        use_ray: run the cells as Ray tasks.
        overrides: settings of every cell's recipe, for ablations; a folder holds one set of them.
        console: where table and progress go.

    Returns:
        What was written.

    Raises:
        GridError: ``out`` holds cells of another size or of other settings.
        CellError: cells failed.
    """
    began = time.perf_counter()
    cells = select(grid(size, seeds), objectives, conditions)
    for cell in cells:
        steps = cell_recipe(cell, size, overrides).objective.rollout_steps
        if steps < 8:
            raise ValueError(
                f"rollouts must have the 8 steps that the table shows, got rollout_steps {steps}"
            )
    settings = _settings(size, overrides)
    spent = _begin(out, settings)

    def minutes() -> float:
        return spent + (time.perf_counter() - began) / 60

    with progress_bar(console, "cells") as update:

        def on_cell(done: int, total: int, result: dict[str, Any]) -> None:
            update("slow-features", done, total, _scalars(result))
            progress = {**settings, "minutes": minutes()}  # a kill must not lose the count
            write_json(out / "grid.json", progress)

        results = run_grid(
            cells,
            size,
            out,
            device=device,
            jobs=jobs,
            use_ray=use_ray,
            overrides=overrides,
            on_cell=on_cell,
        )
    value = {
        "size": size,
        "overrides": list(overrides),
        "seeds": list(seeds),
        "command": command_line(),
        "minutes": round(minutes(), 1),
        "core_minutes": round(sum(result["seconds"] for result in results) / 60, 1),
        "device": device,
        "versions": versions(),
        "alarm_thresholds": SlowFeatureAlarm().thresholds(),
        "alarm": alarm_quality(results),
        "cells": [slim(result) for result in results],
    }
    write_json(out / "slow_features.json", value, indent=None)
    write_figures(results, out)
    console.print(cells_table(results))
    console.print(_sentence(value))
    return value


def _begin(out: Path, settings: dict[str, Any]) -> float:
    """Check that ``out`` is of this grid and return the minutes that earlier calls spent."""
    path = out / "grid.json"
    if not path.exists():
        write_json(path, {**settings, "minutes": 0.0})
        return 0.0
    earlier = read_json(path)
    changed = [key for key, value in settings.items() if earlier.get(key) != value]
    if changed:
        raise GridError(
            f"{out} must be continued with the same {', '.join(changed)}; choose another --out to start afresh"
        )
    return float(earlier["minutes"])


def _settings(size: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What decides the cells' results and must not change between calls."""
    recipes = {}
    for name in OBJECTIVES:
        recipe = dataclasses.asdict(cell_recipe(Cell(name, Condition(), 0), size))
        recipes[name] = json.loads(json.dumps(recipe))
    return {"size": size, "overrides": list(overrides), "recipes": recipes}


def _scalars(result: dict[str, Any]) -> dict[str, float]:
    return {"seconds": result["seconds"]}


def _sentence(value: dict[str, Any]) -> str:
    alarm = value["alarm"]

    def rate(name: str) -> str:
        if alarm[name] is None:
            return "–"
        low, high = alarm[f"{name}_ci95"]
        return f"{alarm[name]:.3f} [{low:.2f}, {high:.2f}]"

    return (
        f"[bold]{len(value['cells'])} cells in {value['minutes']:.1f} minutes. The alarm without labels: sensitivity "
        f"{rate('sensitivity')} over {alarm['failing']} failing cells, specificity {rate('specificity')} over "
        f"{alarm['healthy']} healthy ones; {alarm['between']} lie between.[/bold]"
    )
