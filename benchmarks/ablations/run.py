"""Run a set of ablations: the cells that its folder lacks, each its own training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.ablations.axes import ABLATIONS, Ablation
from benchmarks.ablations.figures import write_figure
from benchmarks.agents import load_run
from benchmarks.collecting import collect_store, make_data_policy
from benchmarks.diagnosing import diagnose_run
from benchmarks.pipeline import evaluate_run
from benchmarks.recipes import Recipe, override
from benchmarks.recording import rank_correlations
from benchmarks.report import render_ablations
from benchmarks.runs import (
    RunError,
    check_same_run,
    command_line,
    read_config,
    read_json,
    versions,
    write_json,
)
from benchmarks.seeding import derive_seed, make_generator
from benchmarks.stages import train_run
from worldmodel.jepa import require_known

OnStep = Callable[[str, int, int, Mapping[str, float]], None]
DIAGNOSED = 200  # episodes of the recipe's own data that all cells are diagnosed on
STATISTICS = ("rankme", "between_trajectory_share", "distance_path", "action_r2", "identity_ratio")


def run_ablations(
    name: str,
    recipe: Recipe,
    out: Path,
    *,
    seeds: Sequence[int],
    only: Sequence[str] | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train and evaluate the cells that ``out`` lacks; write ``<name>.json`` after each, then the figure and the page.

    Args:
        name: of :data:`ABLATIONS`.
        recipe: what is changed.
        out: gets ``stores/``, a run folder per cell in ``cells/`` (sets that have a cell in common share it), and the
            results.
        seeds: of data and training. The file holds these and no others; cells of other seeds stay in ``cells/``.
        only: names of cells; None is all of them.
        device: of the networks.
        on_step: called with cell and stage, step, steps in all and scalars.

    Returns:
        What was written: a row per cell and seed, with success of the modes, label-free statistics and minutes.

    Raises:
        RunError: ``out`` holds a cell of another recipe, planner or tasks.
        ValueError: the recipe has no such axis or cell, or data that cannot be collected.
    """
    ablations = ABLATIONS[name](recipe)
    for cell in only or ():
        require_known("cell", cell, [ablation.name for ablation in ablations])
    chosen = [ablation for ablation in ablations if only is None or ablation.name in only]
    cells = [(ablation, override(recipe, ablation.settings)) for ablation in chosen]
    for _, changed in cells:  # what cannot be collected is said before anything is trained
        make_data_policy(changed.collect.policy, changed.collect.policy_kwargs)
    same = dataclasses.replace(recipe.collect, num_episodes=min(DIAGNOSED, recipe.collect.num_episodes))
    same = dataclasses.replace(same, chunk=min(same.chunk, same.num_episodes))
    collect_store(same, out / "stores" / "diagnosed", seed=derive_seed(0, "diagnosed"))
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
    for ablation, changed in cells:
        for seed in seeds:
            sees_the_same = changed.collect.env_kwargs == recipe.collect.env_kwargs
            diagnosed = out / "stores" / "diagnosed" if sees_the_same else None
            rows.append(_run_cell(ablation, changed, out, seed, device, diagnosed, on_step))
            write_json(out / f"{name}.json", value)
    write_figure(name, rows, out / f"{name}.png")
    render_ablations(out)
    return value


def _run_cell(
    ablation: Ablation,
    recipe: Recipe,
    out: Path,
    seed: int,
    device: str,
    diagnosed: Path | None,
    on_step: OnStep | None,
) -> dict[str, Any]:
    changes = "_".join(setting.removeprefix("objective.") for setting in ablation.settings) or "unchanged"
    run = out / "cells" / f"{changes}-seed{seed}"
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
        return {**row, "name": ablation.name, "value": ablation.value}
    collect = recipe.collect
    seen = "" if diagnosed is not None else "".join(f"-{value}" for value in collect.env_kwargs.values())
    name = f"{collect.policy}-{collect.num_episodes}x{collect.num_steps}{seen}-seed{seed}"
    store = collect_store(collect, out / "stores" / name, seed=seed)

    def report(stage: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        if on_step is not None:
            on_step(f"{ablation.name}: {stage}", step, total, scalars)

    train_run(recipe, store, run, seed=seed, device=device, on_step=report)
    path = None if diagnosed is None else str(diagnosed)  # its own data where what is seen differs
    statistics = diagnose_run(run, store_path=path, seed=seed, device=device)["final"]
    evaluations = evaluate_run(
        run, seed=seed, device=device, with_references=False, with_media=False, on_step=report
    )
    trained = load_run(run, device)
    critic = trained.critic if trained.has_critic else None
    generator = make_generator(seed, "correlations")
    correlations = rank_correlations(trained, critic, trained.simulator, generator)
    shown = ("success_rate", "ci95", "success_rate_final", "strict", "steps_to_success")
    row = {
        "name": ablation.name,
        "settings": list(ablation.settings),
        "value": ablation.value,
        "seed": seed,
        "agents": {one["agent"]: {key: one[key] for key in shown} for one in evaluations},
        "evaluated": {"planner": asdict(recipe.planner), **asdict(recipe.evaluation)},
        "diagnostics": {
            **{key: statistics.get(key) for key in STATISTICS},
            "distance_geodesic": correlations["embedding_distance"],
            "critic_geodesic": correlations.get("critic"),
        },
        "minutes": round(sum(read_config(run)["seconds"].values()) / 60, 2),
    }
    write_json(done, row)
    return row
