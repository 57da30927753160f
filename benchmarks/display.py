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
from rich.text import Text

from worldmodel.alarm import Alarm
from worldmodel.training import DIAGNOSTIC

AGENT_ORDER = (
    "mode-2",
    "mode-2+1",
    "mode-1",
    "oracle",
    "oracle-straight",
    "expert",
    "straight-line",
    "correlated",
    "random",
    "zero",
)

STATISTICS = {  # what a diagnosis and the ablations call their numbers, and how to read them
    "action_r2": ("action R²", "actions read off the embedding's motion, held out: 1 fully, 0 not at all"),
    "between_trajectory_share": ("between-trajectory share", "of the variance: 1 is constant in time"),
    "static_ratio": ("static ratio", "constant over moving part of the action readout, whole trajectories"),
    "rankme": ("RankMe", "effective rank of the embedding"),
    "relative_variance": ("relative variance", "beside the embedding's mean square: 0 is collapsed"),
    "slowness": ("slowness", "0 constant in time, 1 white noise"),
    "action_sensitivity": ("action sensitivity", "move of a rollout's end under other actions, in stds"),
    "identity_ratio": ("identity ratio", "rollout error beside standing still: below 1 is better"),
    "time_retrieval": ("time retrieval", "predictions nearest to their own frame of the trajectory"),
    "trajectory_retrieval": ("trajectory retrieval", "predictions nearest to their own trajectory"),
    "distance_steps": ("distance ~ steps", "rank correlation of embedding distance and steps between"),
    "distance_path": ("distance ~ path", "rank correlation with the length of the summed actions"),
    "distance_geodesic": (
        "distance ~ true distance",
        "rank correlation with the true distance to goals of the task",
    ),
    "critic_geodesic": (
        "critic ~ true distance",
        "rank correlation with the true distance to goals of the task",
    ),
    "distance_rollout": ("distance ~ rollout", "rank correlation with the same distance in the imagination"),
    "action_cka": ("CKA with actions", "of the motion, linear, 0 to 1"),
    "action_cca": ("CCA with actions", "of the motion, mean canonical correlation, 0 to 1"),
    "num_trajectories": ("trajectories", "that the statistics are of"),
}


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
        if name not in hidden and not name.startswith(("val_", DIAGNOSTIC))
    )
    speed = scalars.get("steps_per_s")
    return terms if speed is None else f"{speed:.0f}/s {terms}"


def _short(name: str) -> str:
    words = name.split("_")
    return name[:4] if len(words) == 1 else "".join(word[0] for word in words)


def print_alarm(console: Console, step: int, alarm: Alarm) -> None:
    """Warn of an alarm that spoke at ``step`` of the training, also above a live progress bar."""
    console.print(Text(f"Warning, at step {step} of the world model: {alarm.message}.", style="bold yellow"))
    console.print(Text(f"What to try: {alarm.advice}", style="yellow"))


def diagnostics_table(scalars: Mapping[str, float]) -> Table:
    """Return the statistics of a diagnosis as a table, each with how to read it."""
    table = Table(title=None, header_style="bold")
    table.add_column("statistic")
    table.add_column("value", justify="right")
    table.add_column("how to read it")
    for name, value in scalars.items():
        label, reading = STATISTICS.get(name, (name.replace("_", " "), ""))
        table.add_row(label, f"{value:.3g}", reading)
    return table


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the results of an evaluation as a table, reference rows last."""
    radius = next((row["strict"]["radius"] for row in rows if row.get("strict")), None)
    table = Table(title=None, header_style="bold")
    for name, justify in (
        ("agent", "left"),
        ("success %", "right"),
        ("95 % interval", "right"),
        ("at the end %", "right"),
        *([] if radius is None else [(f"% nearer than {radius:g}", "right")]),
        ("steps (median)", "right"),
        ("ms per action", "right"),
        ("one alone", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in sorted(rows, key=_order):
        low, high = row["ci95"]
        steps = row["steps_to_success"]["median"]
        parts = [part for part in (row["planner"], row.get("policy")) if part]
        name = f"{row['agent']} ({', '.join(parts)})" if parts else row["agent"]
        table.add_row(
            name,
            f"{100 * row['success_rate']:.1f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{100 * row['success_rate_final']:.1f}",
            *([] if radius is None else [_strict(row.get("strict"))]),
            "–" if steps is None else f"{steps:.0f}",
            f"{row['plan_ms']['mean']:.3f}",
            f"{row['latency_ms']:.2f}" if "latency_ms" in row else "–",
        )
    return table


def _strict(strict: Mapping[str, Any] | None) -> str:
    """Success within the narrower radius, ever and at the end."""
    if strict is None:
        return "–"
    return f"{100 * strict['success_rate']:.1f} ({100 * strict['success_rate_final']:.1f} at the end)"


def study_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows of a study as a table."""
    table = Table(title=None, header_style="bold")
    labels = list(rows[0]["labels"]) if rows else []
    for name in labels:
        table.add_column(name)
    for name in ("success %", "95 % interval", "at the end %", "steps (median)", "ms per action"):
        table.add_column(name, justify="right")
    for row in rows:
        low, high = row["ci95"]
        steps = row["steps_to_success"]["median"]
        table.add_row(
            *("–" if row["labels"][name] is None else str(row["labels"][name]) for name in labels),
            f"{100 * row['success_rate']:.1f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{100 * row['success_rate_final']:.1f}",
            "–" if steps is None else f"{steps:.0f}",
            f"{row['plan_ms']['mean']:.3f}",
        )
    return table


def ablations_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows of ablations as a table."""
    table = Table(title=None, header_style="bold")
    table.add_column("changed")
    agents = [name for name in AGENT_ORDER if any(name in row["agents"] for row in rows)]
    statistics = list(rows[0]["diagnostics"]) if rows else []
    for name in ("seed", *(f"{agent} %" for agent in agents), *(STATISTICS[name][0] for name in statistics)):
        table.add_column(name, justify="right")
    for row in rows:
        rates = [f"{100 * row['agents'][agent]['success_rate']:.1f}" for agent in agents]
        numbers = [row["diagnostics"][name] for name in statistics]
        shown = ["–" if value is None else f"{value:.2f}" for value in numbers]
        table.add_row(row["name"], str(row["seed"]), *rates, *shown)
    return table


def _order(row: Mapping[str, Any]) -> int:
    return AGENT_ORDER.index(row["agent"]) if row["agent"] in AGENT_ORDER else len(AGENT_ORDER)
