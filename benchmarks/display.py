"""What a person sees in the terminal: progress bars with loss terms, throughput and ETA, and result tables.

Everything goes to stderr, so that ``--json`` output on stdout stays clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

AGENT_ORDER = ("mode-2", "mode-1", "oracle", "expert", "straight-line", "random", "zero")


def make_console(quiet: bool = False) -> Console:
    """Return the console of the command line, on stderr."""
    return Console(stderr=True, quiet=quiet, highlight=False)


@contextmanager
def progress_bar(
    console: Console, unit: str
) -> Iterator[Callable[[str, int, int, Mapping[str, float]], None]]:
    """Show one bar per stage; yields ``update(stage, done, total, scalars)``."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console) as progress:

        def update(stage: str, done: int, total: int, scalars: Mapping[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage.replace("_", " "), total=total, detail="")
            if scalars:
                progress.update(tasks[stage], completed=done, detail=_detail(scalars))
            else:
                progress.update(tasks[stage], completed=done)

        yield update


def _detail(scalars: Mapping[str, float]) -> str:
    """Loss terms and throughput in one line; names are shortened to their words' first letters and the last word."""
    hidden = ("lr", "grad_norm", "steps_per_s")
    terms = " ".join(f"{_short(name)} {value:.3g}" for name, value in scalars.items() if name not in hidden)
    speed = scalars.get("steps_per_s")
    return terms if speed is None else f"{terms} · {speed:.0f}/s"


def _short(name: str) -> str:
    words = name.split("_")
    return name[:4] if len(words) == 1 else "".join(word[0] for word in words)


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the results of an evaluation as a table, reference rows last."""
    table = Table(title=None, header_style="bold")
    for name, justify in (
        ("agent", "left"),
        ("success %", "right"),
        ("95 % interval", "right"),
        ("at the end %", "right"),
        ("steps (median)", "right"),
        ("ms per action", "right"),
        ("one alone", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in sorted(rows, key=_order):
        low, high = row["ci95"]
        steps = row["steps_to_success"]["median"]
        name = row["agent"] if row["planner"] is None else f"{row['agent']} ({row['planner']})"
        table.add_row(
            name,
            f"{100 * row['success_rate']:.1f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{100 * row['success_rate_final']:.1f}",
            "–" if steps is None else f"{steps:.0f}",
            f"{row['plan_ms']['mean']:.3f}",
            f"{row['latency_ms']:.2f}" if "latency_ms" in row else "–",
        )
    return table


def _order(row: Mapping[str, Any]) -> int:
    return AGENT_ORDER.index(row["agent"]) if row["agent"] in AGENT_ORDER else len(AGENT_ORDER)
