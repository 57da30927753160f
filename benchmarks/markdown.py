"""Tables for the README, drawn from the JSON that the named commands wrote: no number is copied by hand.

``python -m benchmarks.markdown`` prints them; a test holds the README to what it prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.slow_features.table import (
    chance,
    encoding_rmse,
    markdown_table,
    mean,
    success,
    tuned,
)

RESULTS = Path(__file__).parent / "results"
ROWS = {
    "mode-2": "**plan** on the learned model (mode 2)",
    "mode-1": "**react** with the learned policy (mode 1)",
    "oracle": "the same planner on the true simulator",
    "straight-line": "straight towards the goal",
    "random": "random actions",
    "zero": "no action",
}


def quickstart_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows that all seeds have: rates and the interval of each, rates at the end, mean milliseconds."""
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    agents = [summary["agents"] for summary in summaries]
    has_strict = all(row.get("strict") for one in agents for row in one.values())
    radius = agents[0]["mode-2"]["strict"]["radius"] if has_strict else None
    narrow = "" if radius is None else f" within {radius:g} px, ever (at step 200) |"
    lines = [
        f"| success on {summaries[0]['tasks']} cross-room tasks, seeds {seeds} | within 200 steps | 95 % interval "
        f"of each | at step 200 |{narrow} ms per action, together | alone |",
        "|---|---|---|---|---|---|" + ("" if radius is None else "---|"),
    ]
    for agent, words in ROWS.items():
        if not all(agent in one for one in agents):
            continue
        rows = [one[agent] for one in agents]
        rates = " / ".join(f"{100 * row['success_rate']:.1f}" for row in rows)
        intervals = ", ".join(f"{100 * row['ci95'][0]:.0f}–{100 * row['ci95'][1]:.0f}" for row in rows)
        final = " / ".join(f"{100 * row['success_rate_final']:.1f}" for row in rows)
        ms = sum(row["ms_per_action"] for row in rows) / len(rows)
        alone = [row["ms_per_action_alone"] for row in rows if row["ms_per_action_alone"] is not None]
        single = f"{sum(alone) / len(alone):.2g}" if alone else "–"
        within = "" if radius is None else " " + " / ".join(_strict(row["strict"]) for row in rows) + " % |"
        lines.append(f"| {words} | {rates} % | {intervals} | {final} % |{within} {ms:.2g} | {single} |")
    return "\n".join(lines)


def _strict(strict: Mapping[str, Any]) -> str:
    return f"{100 * strict['success_rate']:.1f} ({100 * strict['success_rate_final']:.0f})"


MUJOCO = {
    "point-maze-small": "PointMaze 7 x 7, held-out mazes",
    "reacher-small": "Reacher",
    "push-t-small": "Push-T",
    "cart-pole-small": "cart-pole",
}
MUJOCO_ROWS = {
    "mode-2": ROWS["mode-2"],
    "mode-1": ROWS["mode-1"],
    "oracle": ROWS["oracle"],
    "oracle-straight": "the same, by straight distance",
    "oracle-own": "a planner of the task's own on the true simulator",
    "expert": "scripted expert",
    "straight-line": ROWS["straight-line"],
    "correlated": "correlated noise",
    "random": ROWS["random"],
    "zero": ROWS["zero"],
}


def mujoco_table() -> str:
    """Return a column per MuJoCo task that has committed results, a line per agent, seeds side by side.

    Results of an earlier commit, whose recipe was another, say so. The task's own planner is of ``bench references``.
    """
    found = {name: load_summaries(name) for name in MUJOCO}
    found = {name: summaries for name, summaries in found.items() if summaries}
    agents = {
        name: [each["agents"] | {"oracle-own": load_oracle(name, each["tasks"])} for each in one]
        for name, one in found.items()
    }
    heads = [
        f"{MUJOCO[name]}: {one[0]['tasks']} tasks, seed{'s' * (len(one) > 1)} "
        + ", ".join(f"{summary['seed']}{'†' * ('commit' in summary)}" for summary in one)
        for name, one in found.items()
    ]
    lines = ["| success within the budget (at its end) [%] | " + " | ".join(heads) + " |"]
    lines.append("|---|" + "---|" * len(found))
    for agent, words in MUJOCO_ROWS.items():
        entries = [_mujoco_entry([each.get(agent) for each in one]) for one in agents.values()]
        if set(entries) != {"–"}:
            lines.append(f"| {words} | " + " | ".join(entries) + " |")
    for agent, words in (("mode-2", "plan"), ("mode-1", "react")):
        times = [
            sum(summary["agents"][agent]["ms_per_action"] for summary in one) / len(one)
            for one in found.values()
        ]
        lines.append(
            f"| ms per action, {words}, together | " + " | ".join(f"{ms:.2g}" for ms in times) + " |"
        )
    commits = {each["commit"] for one in found.values() for each in one if "commit" in each}
    if commits:
        lines += ["", f"† at commit {', '.join(sorted(commits))}, before the recipe's last change"]
    return "\n".join(lines)


def _mujoco_entry(rows: Sequence[Mapping[str, Any] | None]) -> str:
    """Say what an agent reached, by seed, with the widest of the intervals."""
    known = [row for row in rows if row is not None]
    if not known:
        return "–"
    if len({(row["success_rate"], row["success_rate_final"]) for row in known}) == 1:
        known = known[:1]
    ever = " / ".join(f"{100 * row['success_rate']:.1f}" for row in known)
    final = " / ".join(f"{100 * row['success_rate_final']:.1f}" for row in known)
    low, high = min(row["ci95"][0] for row in known), max(row["ci95"][1] for row in known)
    return f"{ever} ({final}) [{100 * low:.0f}–{100 * high:.0f}]"


FACTOR_STUDIES = {  # task -> run
    "PointMaze": "point-maze-small-seed0",
    "Reacher": "reacher-small-seed0",
    "Push-T": "push-t-small-seed0",
    "cart-pole": "cart-pole-small-seed0",
}


def factors_table(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line per task and factor of variation: its values, and what either mode reaches at each (and at the end).

    Args:
        studies: of generalisation, by the task's name.
    """
    studied = {row["labels"]["agent"] for study in studies.values() for row in study["rows"]}
    agents = {name: words for name, words in (("mode-2", "plan"), ("mode-1", "react")) if name in studied}
    lines = [
        "| task | factor | at | "
        + " | ".join(f"{words}, within the budget (at its end) [%]" for words in agents.values())
        + " |",
        "|---|---|---|" + "---|" * len(agents),
    ]
    for task, study in studies.items():
        rows = study["rows"]
        usual = {"together": 0.0}
        for row in rows:
            if row["labels"]["factor"] == "together" and row["labels"]["value"] == 0:
                usual |= row["variation"]
        for factor in dict.fromkeys(row["labels"]["factor"] for row in rows):
            found = {
                (row["labels"]["value"], row["labels"]["agent"]): (
                    f"{100 * row['success_rate']:.0f} ({100 * row['success_rate_final']:.0f})"
                )
                for row in rows
                if row["labels"]["factor"] == factor
            }
            values = sorted({value for value, _ in found})
            cells = [
                [f"{value:g}" for value in values],
                *([found.get((value, agent), "–") for value in values] for agent in agents),
            ]
            at = values.index(usual[factor]) if usual.get(factor) in values else None
            entries = [
                " / ".join(f"**{text}**" if place == at else text for place, text in enumerate(cell))
                for cell in cells
            ]
            lines.append(f"| {task} | {factor.replace('_', ' ')} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def load_factor_studies() -> dict[str, dict[str, Any]]:
    """Return the committed studies of factors of the MuJoCo tasks, by the task's name."""
    return {task: load_study(run, "generalisation") for task, run in FACTOR_STUDIES.items()}


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


DOT_CONDITIONS = (
    ("dot", "none", "fixed", 0.0),
    ("dot", "uniform", "fixed", 1.0),
    ("dot", "uniform", "changing", 1.0),
    ("dot", "uniform", "rolling", 1.0),
    ("dot", "structured", "fixed", 1.0),
    ("dot", "structured", "changing", 1.0),
    ("dot", "structured", "rolling", 1.0),
)
OBJECTIVE_WORDS = {
    "supervised": "supervised upper bound",
    "controllable": "**controllable**",
    "controllable-static": "**controllable-static**",
    "vicreg": "VICReg",
    "simclr": "SimCLR",
    "barlow": "Barlow Twins",
    "byol": "BYOL",
    "sigreg": "SIGReg",
    "swav": "SwAV",
    "infonce-within": "InfoNCE within the trajectory",
    "vicreg-temporal": "VICReg + temporal std",
    "vicreg-idm": "VICReg + inverse dynamics",
    "idm": "inverse dynamics",
    "reconstruction": "pixel reconstruction",
    "rssm": "RSSM-style reconstruction",
    "random": "random encoder",
}


def slow_features_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the rollout error of every objective under every distractor of the dot's brightness."""
    return markdown_table(cells, OBJECTIVE_WORDS, DOT_CONDITIONS, title="error after 8 imagined steps [px]")


def planning_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return how often planning by embedding distance reaches its goal, of the objectives that are everywhere."""
    shown = {name: OBJECTIVE_WORDS[name] for name in ("controllable", "vicreg", "idm", "reconstruction")}
    return markdown_table(
        cells, shown, DOT_CONDITIONS, success, ".0f", title="goals reached by planning [%]", worst=min
    )


def wanted_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the encoding error of what is controlled and of what is static and wanted."""
    columns = {
        "three dots: own": ("three-dots", "none", "position"),
        "stationary": ("three-dots", "none", "stationary"),
        "walker": ("three-dots", "none", "walker"),
        "fixed noise: own": ("three-dots", "uniform", "position"),
        "stationary ": ("three-dots", "uniform", "stationary"),
        "Two Rooms: dot": ("two-rooms", "none", "position"),
        "wall and door": ("two-rooms", "none", "layout"),
    }
    lines = ["| encoding error [px] | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    rows: dict[str, list[str]] = {"chance": []}
    for world, distractor, target in columns.values():
        here = [cell for cell in cells if (cell["world"], cell["distractor"]) == (world, distractor)]
        rows["chance"].append(f"{mean(chance(cell, target=target) for cell in here):.1f}")
        for name in ("vicreg", "controllable", "controllable-static"):
            mine = [encoding_rmse(cell, target) for cell in here if cell["objective"] == name]
            rows.setdefault(OBJECTIVE_WORDS[name], []).append(f"{mean(mine):.2f}")
    return "\n".join(lines + [f"| {name} | " + " | ".join(entries) + " |" for name, entries in rows.items()])


def alarm_sentence(value: Mapping[str, Any]) -> str:
    """Say how often the alarm was right, over all cells."""
    alarm = value["alarm"]

    def rate(name: str, of: str) -> str:
        low, high = alarm[f"{name}_ci95"]
        right = round(alarm[name] * alarm[of])
        return f"{right} of {alarm[of]} {of} ones ({100 * low:.0f}–{100 * high:.0f} %)"

    return (
        f"The alarm was right about {rate('sensitivity', 'failing')} and {rate('specificity', 'healthy')} among "
        f"{len(value['cells'])} models. Failing: a linear probe finds the dot no better than at two thirds of chance; "
        f"healthy: at one third or better. Of the {alarm['between']} in between it rang for {alarm['rang_between']}."
    )


def tuned_sentence(cells: Sequence[Mapping[str, Any]]) -> str:
    """Say what a learning rate of its own does for an objective under fixed noise."""
    best = ", ".join(f"{OBJECTIVE_WORDS[name]} {error:.1f}" for name, (_, error) in tuned(cells).items())
    return (
        "The tuned column: with the best of four learning rates for this very data, chosen by the probe, one seed, the "
        f"error under fixed noise is {best} px."
    )


def cost_sentence(value: Mapping[str, Any]) -> str:
    """Say what the grid took and how it is made."""
    seeds = " ".join(str(seed) for seed in value["seeds"])
    return (
        f"`{value['command']}`, seeds {seeds}, device {value['device']}: {len(value['cells'])} models, "
        f"{value['core_minutes']:.0f} core-minutes ([results](benchmarks/results/slow-features-small.json))."
    )


def load_slow_features() -> dict[str, Any]:
    """Read the committed results of the slow-feature benchmark."""
    return json.loads((RESULTS / "slow-features-small.json").read_text())


def _number(value: float) -> str:
    for scale, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def policies_table(study: Mapping[str, Any]) -> str:
    """Return the policies, and the planner with all and a quarter of its samples, alone and warm-started by each."""
    most = max(row["labels"]["samples"] for row in study["rows"])
    lines = [
        f"| on {study['evaluation']['num_tasks']} tasks | samples | within {study['evaluation']['num_steps']} steps | "
        "95 % interval | at the end | steps | ms per action |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in study["rows"]:
        labels = row["labels"]
        if labels["samples"] not in (0, most // 4, most):
            continue
        words = {
            "1": f"**react**: {labels['policy']}",
            "2": "**plan**",
            "2+1": f"**plan**, warm-started by {labels['policy']}",
        }[labels["mode"]]
        low, high = (100 * end for end in row["ci95"])
        steps = row["steps_to_success"]["median"]
        lines.append(
            f"| {words} | {labels['samples'] or '–'} | {100 * row['success_rate']:.1f} % | {low:.0f}–{high:.0f} | "
            f"{100 * row['success_rate_final']:.1f} % | {'–' if steps is None else f'{steps:.0f}'} | "
            f"{row['plan_ms']['mean']:.2g} |"
        )
    return "\n".join(lines)


_ABLATION_COLUMNS: dict[str, tuple[str, str, str]] = {  # heading: kind of entry, its key, its format
    "plan [%]": ("mode-2", "success_rate", ".1f"),
    "at the end": ("mode-2", "success_rate_final", ".1f"),
    "react [%]": ("mode-1", "success_rate", ".1f"),
    "RankMe": ("diagnostics", "rankme", ".0f"),
    "between-trajectory share": ("diagnostics", "between_trajectory_share", ".2f"),
    "distance ~ true": ("diagnostics", "distance_geodesic", ".2f"),
    "critic ~ true": ("diagnostics", "critic_geodesic", ".2f"),
}
# Where the cart is to go says nothing about how many steps a swing-up takes: no correlations with that distance.
_MOTION_COLUMNS: dict[str, tuple[str, str, str]] = {
    "plan [%]": ("mode-2", "success_rate", ".0f"),
    "at the end": ("mode-2", "success_rate_final", ".0f"),
    "react [%]": ("mode-1", "success_rate", ".0f"),
    "at the end ": ("mode-1", "success_rate_final", ".0f"),
    "action R²": ("diagnostics", "action_r2", ".2f"),
    "identity ratio": ("diagnostics", "identity_ratio", ".2f"),
}


def ablations_table(value: Mapping[str, Any]) -> str:
    """Return a line per change, its seeds side by side; a column that no row fills is left out."""
    rows = value["rows"]
    columns = _MOTION_COLUMNS if value["ablations"] == "motion" else _ABLATION_COLUMNS
    entries = {
        heading: [_ablation_entry(row, *column) for row in rows] for heading, column in columns.items()
    }
    shown = {heading: words for heading, words in entries.items() if set(words) != {"–"}}
    seeds = ", ".join(str(seed) for seed in value["seeds"])
    lines = [
        f"| {rows[0]['evaluated']['num_tasks']} tasks, seed{'s' * (len(value['seeds']) > 1)} {seeds} | "
        + " | ".join(shown)
        + " |",
        "|---|" + "---|" * len(shown),
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        ours = [index for index, row in enumerate(rows) if row["name"] == name]
        joined = (" / ".join(words[index] for index in ours) for words in shown.values())
        lines.append(f"| {name} | " + " | ".join(joined) + " |")
    return "\n".join(lines)


def _ablation_entry(row: Mapping[str, Any], kind: str, key: str, form: str) -> str:
    source = row["diagnostics"] if kind == "diagnostics" else row["agents"].get(kind)
    number = None if source is None else source.get(key)
    if number is None:
        return "–"
    return format(number if kind == "diagnostics" else 100 * number, form)


def load_study(run: str, name: str) -> dict[str, Any]:
    """Read the committed study ``name`` of ``run``."""
    return json.loads((RESULTS / f"{run}-{name}.json").read_text())


def load_summaries(recipe: str = "quickstart") -> list[dict[str, Any]]:
    """Read the committed summaries of a recipe's runs, by seed."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{recipe}-seed[0-9].json"))]


def load_oracle(recipe: str, num_tasks: int) -> dict[str, Any] | None:
    """Read what the planner of ``bench references`` reached on a recipe's tasks; None where nobody ran it.

    Raises:
        ValueError: it was run on another number of tasks.
    """
    path = RESULTS / f"{recipe}-references.json"
    if not path.exists():
        return None
    rows = json.loads(path.read_text())["evaluations"]
    (row,) = [row for row in rows if row["agent"] == "oracle"]
    if row["episodes"] != num_tasks:
        raise ValueError(f"{path.name} must be of {num_tasks} tasks, got {row['episodes']}")
    return row


def load_speed() -> list[dict[str, Any]]:
    """Read the committed speed figures."""
    return json.loads((RESULTS / "speed.json").read_text())["rows"]


if __name__ == "__main__":
    print(quickstart_table(load_summaries()), "\n")
    print(quickstart_table(load_summaries("two-rooms-small")), "\n")
    print(policies_table(load_study("two-rooms-small-seed0", "policies")), "\n")
    print(mujoco_table(), "\n")
    for recipe, name in (("two-rooms", "terms"), ("two-rooms-small", "terms"), ("cart-pole-small", "motion")):
        print(ablations_table(load_study(f"{recipe}-ablations", name)), "\n")
    print(factors_table(load_factor_studies()), "\n")
    print(speed_table(load_speed()), "\n")
    value = load_slow_features()
    for part in (slow_features_table, planning_table, wanted_table):
        print(part(value["cells"]), "\n")
    print(alarm_sentence(value), "\n")
    print(tuned_sentence(value["cells"]), "\n")
    print(cost_sentence(value))
