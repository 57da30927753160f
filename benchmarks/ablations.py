"""Ablations of a recipe: it is trained again with one thing changed, and evaluated on the same tasks.

``terms`` takes one term of the objective away at a time, the collapse canaries; ``data-size`` and ``trajectory-length``
change how much there is to learn from, and in how long pieces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.collecting import collect_store
from benchmarks.diagnosing import diagnose_run
from benchmarks.pipeline import evaluate_run
from benchmarks.recipes import Recipe, override
from benchmarks.runs import (
    RunError,
    check_same_run,
    command_line,
    read_config,
    read_json,
    versions,
    write_json,
)
from benchmarks.stages import train_run

OnStep = Callable[[str, int, int, Mapping[str, float]], None]
STATISTICS = ("rankme", "between_trajectory_share", "distance_path", "action_r2", "identity_ratio")
SIZES = (1 / 64, 1 / 16, 1 / 4, 1.0)  # of the recipe's episodes
LENGTHS = (17, 33, 65, 91)  # frames of a trajectory, as many frames in all


@dataclass(frozen=True)
class Ablation:
    """One change.

    Attributes:
        name: what it is called in the table.
        settings: overrides of the recipe, such as ``"objective.weights.variance=0"``.
        value: where it lies on the set's axis, or None.
    """

    name: str
    settings: tuple[str, ...]
    value: float | None = None


def terms(recipe: Recipe) -> list[Ablation]:
    """The full objective, then each of its terms left out; a variance-covariance objective also by SIGReg."""
    weights = recipe.objective.weights
    cells = [Ablation("full", ())]
    cells += [
        Ablation(f"no {name.replace('_', ' ')}", (f"objective.weights.{name}=0",))
        for name, w in weights.items()
        if w
    ]
    if {"variance", "covariance"} <= weights.keys():
        replaced = dict.fromkeys(("variance", "covariance"), 0.0) | {"sigreg": 0.1}
        settings = tuple(f"objective.weights.{name}={weight}" for name, weight in replaced.items())
        cells.append(Ablation("SIGReg for variance and covariance", settings))
    return cells


def data_size(recipe: Recipe) -> list[Ablation]:
    """Fewer episodes."""
    episodes = [max(24, round(share * recipe.collect.num_episodes)) for share in SIZES]
    return [
        Ablation(f"{num * recipe.collect.num_steps} transitions", (f"collect.num_episodes={num}",), num)
        for num in dict.fromkeys(episodes)
    ]


def trajectory_length(recipe: Recipe) -> list[Ablation]:
    """Shorter trajectories, more of them: as many transitions in all."""
    transitions = recipe.collect.num_episodes * recipe.collect.num_steps
    cells = []
    for frames in LENGTHS:
        if frames > recipe.objective.window:
            episodes = max(24, round(transitions / (frames - 1)))
            settings = (f"collect.num_steps={frames - 1}", f"collect.num_episodes={episodes}")
            cells.append(Ablation(f"{frames} frames", settings, frames))
    return cells


ABLATIONS: dict[str, Callable[[Recipe], list[Ablation]]] = {
    "terms": terms,
    "data-size": data_size,
    "trajectory-length": trajectory_length,
}


def run_ablations(
    name: str,
    recipe: Recipe,
    out: Path,
    *,
    seeds: Sequence[int],
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train and evaluate the cells that ``out`` lacks, and write ``<name>.json`` after each.

    Args:
        name: of :data:`ABLATIONS`.
        recipe: what is changed.
        out: gets ``stores/``, a run folder per cell in ``cells/``, and the results.
        seeds: of data and training.
        device: of the networks.
        on_step: called with cell and stage, step, steps in all and scalars.

    Returns:
        What was written: a row per cell and seed, with success of the modes, label-free statistics and minutes.

    Raises:
        RunError: ``out`` holds a cell of another recipe, planner or tasks.
    """
    rows: list[dict[str, Any]] = []
    value = {
        "ablations": name,
        "recipe": recipe.name,
        "seeds": list(seeds),
        "device": device,
        "versions": versions(),
        "command": command_line(),
        "rows": rows,
    }
    for ablation in ABLATIONS[name](recipe):
        for seed in seeds:
            changed = override(recipe, ablation.settings)
            rows.append(_run_cell(ablation, changed, out, seed, device, on_step))
            write_json(out / f"{name}.json", value)
    return value


def _run_cell(
    ablation: Ablation, recipe: Recipe, out: Path, seed: int, device: str, on_step: OnStep | None
) -> dict[str, Any]:
    run = out / "cells" / f"{ablation.name.replace(' ', '-')}-seed{seed}"
    done = run / "cell.json"
    if done.exists():
        check_same_run(run, recipe, seed)
        row = read_json(done)
        evaluated = json.loads(json.dumps({"planner": asdict(recipe.planner), **asdict(recipe.evaluation)}))
        if row["evaluated"] != evaluated:
            raise RunError(
                f"{run} must be continued with the same planner and tasks, {row['evaluated']}, got {evaluated}; "
                "choose another --out"
            )
        return row
    collect = recipe.collect
    store = collect_store(
        collect, out / "stores" / f"{collect.num_episodes}x{collect.num_steps}-seed{seed}", seed=seed
    )

    def report(stage: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        if on_step is not None:
            on_step(f"{ablation.name}: {stage}", step, total, scalars)

    train_run(recipe, store, run, seed=seed, device=device, on_step=report)
    statistics = diagnose_run(run, seed=seed, device=device)["final"]
    evaluations = evaluate_run(
        run, seed=seed, device=device, with_references=False, with_media=False, on_step=report
    )
    shown = ("success_rate", "ci95", "success_rate_final", "strict", "steps_to_success")
    row = {
        "name": ablation.name,
        "settings": list(ablation.settings),
        "value": ablation.value,
        "seed": seed,
        "agents": {one["agent"]: {key: one[key] for key in shown} for one in evaluations},
        "evaluated": {"planner": asdict(recipe.planner), **asdict(recipe.evaluation)},
        "diagnostics": {key: statistics.get(key) for key in STATISTICS},
        "minutes": round(sum(read_config(run)["seconds"].values()) / 60, 2),
    }
    write_json(done, row)
    return row
