"""Tables for the README, drawn from the JSON that the named commands wrote: no number is copied by hand.

``python -m benchmarks.markdown`` prints them; a test holds the README to what it prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROWS = {
    "mode-2": "**plan** on the learned model (mode 2)",
    "mode-1": "**react** with the learned policy (mode 1)",
    "oracle": "the same planner on the true simulator",
    "random": "random actions",
    "zero": "no action",
}


def quickstart_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return the five rows over seeds: rates and the interval of each, rates at the end, mean milliseconds."""
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    lines = [
        f"| success on {summaries[0]['tasks']} cross-room tasks, seeds {seeds} | within 200 steps | 95 % interval "
        "of each | at step 200 | ms per action, together | alone |",
        "|---|---|---|---|---|---|",
    ]
    for agent, words in ROWS.items():
        rows = [summary["agents"][agent] for summary in summaries]
        rates = " / ".join(f"{100 * row['success_rate']:.1f}" for row in rows)
        intervals = ", ".join(f"{100 * row['ci95'][0]:.0f}–{100 * row['ci95'][1]:.0f}" for row in rows)
        final = " / ".join(f"{100 * row['success_rate_final']:.1f}" for row in rows)
        ms = sum(row["ms_per_action"] for row in rows) / len(rows)
        alone = [row["ms_per_action_alone"] for row in rows if row["ms_per_action_alone"] is not None]
        single = f"{sum(alone) / len(alone):.2g}" if alone else "–"
        lines.append(f"| {words} | {rates} % | {intervals} | {final} % | {ms:.2g} | {single} |")
    return "\n".join(lines)


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures that have a target, with the comparison measured in the same run."""
    lines = ["| on one core | measured | target | compared with | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        if row.get("target") is None:
            continue
        baseline = row.get("baseline_value")
        versus = "–" if baseline is None else f"{row['baseline_name']}: {_number(baseline)}"
        ratio = "–" if not baseline else f"{row['value'] / baseline:.2g}"
        measured, target = f"{_number(row['value'])} {row['unit']}", _number(row["target"])
        lines.append(f"| {row['name']} | {measured} | {target} | {versus} | {ratio} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    for scale, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def load_summaries() -> list[dict[str, Any]]:
    """Read the committed quickstart summaries, by seed."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("quickstart-seed*.json"))]


def load_speed() -> list[dict[str, Any]]:
    """Read the committed speed figures."""
    return json.loads((RESULTS / "speed.json").read_text())["rows"]


if __name__ == "__main__":
    print(quickstart_table(load_summaries()), "\n")
    print(speed_table(load_speed()))
