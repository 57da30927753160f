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
    TimeRemainingColumn,
)
from rich.table import Column, Table

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
        TextColumn("{task.description}", table_column=Column(min_width=13, no_wrap=True)),
        BarColumn(bar_width=14, table_column=Column(min_width=14, no_wrap=True)),
        MofNCompleteColumn(table_column=Column(justify="right", min_width=9, no_wrap=True)),
        TextColumn(unit, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[clock]}", table_column=Column(min_width=4, no_wrap=True)),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(min_width=7, no_wrap=True)),
        # what is left of the line: loss terms and throughput, cut where the terminal ends
        TextColumn("{task.fields[detail]}", table_column=Column(ratio=1, overflow="ellipsis", no_wrap=True)),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, expand=True) as progress:

        def update(stage: str, done: int, total: int, scalars: Mapping[str, float]) -> None:
            if stage not in tasks:
                name = stage.replace("_", " ")
                tasks[stage] = progress.add_task(name, total=total, detail="", clock="ETA")
            progress.update(tasks[stage], completed=done, clock="took" if done >= total else "ETA")
            if scalars:
                progress.update(tasks[stage], detail=_detail(scalars))

        yield update


def _detail(scalars: Mapping[str, float]) -> str:
    """Throughput and loss terms in one line; long names are shortened to four letters or their initials."""
    hidden = ("lr", "grad_norm", "steps_per_s")
    terms = " ".join(
        f"{_short(name)} {value:.3g}"
        for name, value in scalars.items()
        if name not in hidden and not name.startswith("val_")
    )
    speed = scalars.get("steps_per_s")
    return terms if speed is None else f"{speed:.0f}/s {terms}"


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
