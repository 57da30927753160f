"""``quickstart`` and ``run``: collect, train, plan, react, evaluate and report, from an empty disk."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.collecting import collect_store
from benchmarks.display import AGENT_ORDER, print_alarm, progress_bar, results_table
from benchmarks.pipeline import evaluate_run
from benchmarks.recipes import Recipe
from benchmarks.report import render_report
from benchmarks.runs import check_same_run, command_line, read_config, write_config, write_json
from benchmarks.stages import train_run


def run_quickstart(recipe: Recipe, out: Path, *, seed: int, device: str, console: Console) -> dict[str, Any]:
    """Run the whole path into ``out`` and return the summary that is printed and written to ``summary.json``."""
    began = time.perf_counter()
    check_same_run(out, recipe, seed)
    store_path = out / "data"
    with progress_bar(console, "") as update:
        clock = time.perf_counter()
        store = collect_store(
            recipe.collect,
            store_path,
            seed=seed,
            on_chunk=lambda done, total: update("collect", done, total, {}),
        )
        write_config(out, recipe, seed=seed, seconds={"collect": time.perf_counter() - clock})
        warn = partial(print_alarm, console)
        train_run(recipe, store, out, seed=seed, device=device, on_step=update, on_warning=warn)
        clock = time.perf_counter()
        rows = evaluate_run(out, seed=seed, device=device, on_step=update)
        write_config(out, recipe, seconds={"evaluate": time.perf_counter() - clock})
    report = render_report(out)
    seconds = sum(read_config(out)["seconds"].values())  # of earlier, interrupted calls, too
    summary = summarise_run(recipe, rows, seed, max(seconds, time.perf_counter() - began), report)
    write_json(out / "summary.json", summary)
    console.print(results_table(rows))
    console.print(_sentence(summary))
    return summary


def summarise_run(
    recipe: Recipe, rows: list[dict[str, Any]], seed: int, seconds: float, report: Path
) -> dict[str, Any]:
    """Return the rates with intervals, milliseconds per action, minutes and memory."""
    by_agent = {row["agent"]: row for row in rows}
    return {
        "recipe": recipe.name,
        "seed": seed,
        "tasks": recipe.evaluation.num_tasks,
        "agents": {
            name: {
                "success_rate": by_agent[name]["success_rate"],
                "ci95": by_agent[name]["ci95"],
                "success_rate_final": by_agent[name]["success_rate_final"],
                "strict": by_agent[name]["strict"],
                "ms_per_action": by_agent[name]["plan_ms"]["mean"],
                "ms_per_action_alone": by_agent[name].get("latency_ms"),
            }
            for name in AGENT_ORDER
            if name in by_agent  # a recipe may train no policy
        },
        "minutes": seconds / 60,
        "peak_memory_gib": peak_memory_gib(),
        "report": str(report),
        "command": command_line(),
    }


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far [GiB]."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _sentence(summary: Mapping[str, Any]) -> str:
    def rate(name: str) -> str:
        agent = summary["agents"][name]
        low, high = agent["ci95"]
        return f"{100 * agent['success_rate']:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"

    def pace(name: str) -> str:
        agent = summary["agents"][name]
        return f"{agent['ms_per_action']:.2g} ms per action ({agent['ms_per_action_alone']:.2g} ms alone)"

    words = {
        "mode-2": "planning (mode 2) reaches {rate} of the goals in {pace}",
        "mode-1": "reacting (mode 1) {rate} in {pace}",
        "oracle": "the same planner on the true simulator {rate}",
        "random": "random actions {rate}",
        "zero": "no action {rate}",
    }
    said = [
        text.format(rate=rate(name), pace=pace(name) if "{pace}" in text else "")
        for name, text in words.items()
        if name in summary["agents"]
    ]
    return (
        f"[bold]Over {summary['tasks']} tasks, all advancing together: {', '.join(said)}.[/bold]\n"
        f"{summary['minutes']:.1f} minutes, {summary['peak_memory_gib']:.1f} GiB at most. "
        f"Open the report: {summary['report']}"
    )
