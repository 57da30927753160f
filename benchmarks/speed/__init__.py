"""Speed figures, each measured beside what it is compared with in the same run, on one core."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.table import Table

from benchmarks.speed import envs, loader, mujoco_tasks, planners

SUITES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "environments": envs.run,
    "mujoco": mujoco_tasks.run,
    "loader": loader.run,
    "planners": planners.run,
}


def run_all(*, smoke: bool = False, on_suite: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Run every suite on one thread and return its rows, each with the suite's name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for name, suite in SUITES.items():
            if on_suite is not None:
                on_suite(name)
            rows += [{"suite": name, **row} for row in suite(smoke=smoke)]
    finally:
        torch.set_num_threads(threads)
    return rows


def speed_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the figures as a table: value, target, and the comparison with its ratio."""
    table = Table(header_style="bold")
    for name in ("what", "value", "unit", "target", "compared with", "its value", "ratio"):
        table.add_column(name, justify="left" if name in ("what", "unit", "compared with") else "right")
    for row in rows:
        baseline, value = row.get("baseline_value"), row["value"]
        table.add_row(
            row["name"],
            _number(value),
            row["unit"],
            _number(row.get("target")),
            row.get("baseline_name") or "–",
            _number(baseline),
            "–" if not baseline else f"{value / baseline:.2f}",
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    for scale, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"
