"""One cell: train an ordinary run, probe it, diagnose it, plan with it, and write down what came."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.agents import LearnedActor, TrainedRun, load_run
from benchmarks.collecting import collect_store, make_data_policy
from benchmarks.diagnosing import diagnose_run
from benchmarks.evaluation import draw_tasks, run_episodes, summarise
from benchmarks.probe_data import ProbeData
from benchmarks.probing import encode_and_imagine
from benchmarks.recipes import Recipe
from benchmarks.runs import read_config, write_json
from benchmarks.seeding import derive_seed, make_generator
from benchmarks.slow_features.cells import Cell, cell_recipe
from benchmarks.stages import train_run
from envs.collect import collect
from envs.registration import make_simulator
from envs.simulator import Simulator
from worldmodel.data import TrajectoryStore
from worldmodel.metrics import read_metrics
from worldmodel.probing import ProbeConfig, probe_rollouts

HORIZONS = (1, 4, 8, 16)
PROBE_TRAJECTORIES = {"smoke": 60, "small": 1500, "full": 10_000}  # half of them fit the probe


def store_path(out: Path, cell: Cell) -> Path:
    """Where the data of a cell lie; cells of other objectives read the same."""
    return out / "stores" / f"{cell.condition.name}-seed{cell.seed}"


def ensure_store(cell: Cell, size: str, out: Path, overrides: Sequence[str] = ()) -> TrajectoryStore:
    """Collect the cell's data, or open what an earlier call collected."""
    return collect_store(cell_recipe(cell, size, overrides).collect, store_path(out, cell), seed=cell.seed)


def cell_folder(out: Path, cell: Cell) -> Path:
    """The cell's run folder, which also holds ``cell.json`` once the cell is done."""
    return out / "cells" / cell.name


def read_cell(out: Path, cell: Cell) -> dict[str, Any] | None:
    """Return the result of a finished cell, else None."""
    path = cell_folder(out, cell) / "cell.json"
    return json.loads(path.read_text()) if path.exists() else None


def run_cell(
    cell: Cell, size: str, out: Path, device: str = "cpu", overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a cell, or go on where a kill stopped it, and return its result.

    Its numbers: probe errors of encodings and rollouts [px] with chance, label-free diagnostics and alarm, success of
    planning to a goal by embedding distance (None in Two Rooms, where no distance sees the wall), and the training terms
    and their weighted sum on held-out windows.
    """
    finished = read_cell(out, cell)
    if finished is not None:
        return finished
    recipe, run = cell_recipe(cell, size, overrides), cell_folder(out, cell)
    train_run(recipe, ensure_store(cell, size, out, overrides), run, seed=cell.seed, device=device)
    began = time.perf_counter()
    terms = held_out_terms(run)
    trained = load_run(run, device)
    diagnosis = diagnose_run(run, seed=cell.seed, device=device)
    result = {
        "objective": cell.objective,
        "world": cell.condition.world,
        "distractor": cell.condition.distractor,
        "motion": cell.condition.motion,
        "alpha": cell.condition.alpha,
        "seed": cell.seed,
        "lr": cell.lr,
        "probes": probe_cell(trained, recipe, cell, PROBE_TRAJECTORIES[size]),
        "diagnostics": diagnosis["final"],
        "alarm": diagnosis["alarm"],
        "planning": None if cell.condition.world == "two-rooms" else plan_cell(trained, recipe, cell.seed),
        "terms": terms,
        "loss": sum(weight * terms[name] for name, weight in recipe.objective.weights.items())
        if terms
        else None,
        "device": device,
        "seconds": round(read_config(run)["seconds"]["world_model"] + time.perf_counter() - began, 1),
    }
    write_json(run / "cell.json", result)
    shutil.rmtree(run / "train_state", ignore_errors=True)  # the cell is done: nothing resumes from it
    return result


def held_out_terms(run: Path) -> dict[str, float]:
    """Return the last held-out value of every training term."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["stage"] == "world_model"]
    held_out = [line for line in lines if any(key.startswith("val_") for key in line)]
    if not held_out:
        return {}
    return {key.removeprefix("val_"): value for key, value in held_out[-1].items() if key.startswith("val_")}


def targets_of(simulator: Simulator, states: Tensor) -> dict[str, Tensor]:
    """Return what is probed, ``(rows, K)`` each: positions of the dots [px] and the layout of Two Rooms [px]."""
    state = simulator.state_from_vector(states)
    found = {"position": state["position"]}
    if "other_positions" in state:
        found |= {"walker": state["other_positions"][:, 0], "stationary": state["other_positions"][:, 1]}
    if "wall_x" in state:
        found["layout"] = torch.stack([state["wall_x"], state["door_y"]], dim=-1)
    return {key: value.float() for key, value in found.items()}


def probe_cell(trained: TrainedRun, recipe: Recipe, cell: Cell, num: int) -> dict[str, Any]:
    """Probe encodings and rollouts on fresh trajectories of the ``eval`` split, by target."""
    simulator, model = trained.simulator, trained.model
    steps = recipe.objective.rollout_steps
    policy = make_data_policy(recipe.collect.policy, recipe.collect.policy_kwargs)
    generator = make_generator(cell.seed, "cell-probe")
    data = collect(simulator, policy, num, steps, generator, split="eval", keys=("state",))
    frames = simulator.observation(simulator.state_from_vector(data["state"].flatten(0, 1)))
    obs = {key: frames[key].unflatten(0, (num, steps + 1)) for key in model.observation_keys}
    is_train = torch.arange(num) < num // 2
    encoded, rollouts = encode_and_imagine(model, ProbeData(obs, data["action"][:, :steps], is_train))
    targets = targets_of(simulator, data["state"].flatten(0, 1))
    return {
        key: probe_rollouts(
            encoded,
            rollouts,
            value.unflatten(0, (num, steps + 1)),
            is_train,
            ProbeConfig(),
            horizons=HORIZONS,
            generator=generator,
        )
        for key, value in targets.items()
    }


def plan_cell(trained: TrainedRun, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Plan to goals by distance in embedding space: success and distances to the goal [px]."""
    simulator = make_simulator(trained.env["id"], **trained.env["kwargs"])
    tasks = draw_tasks(simulator, recipe.evaluation)
    actor = LearnedActor(
        trained, simulator, mode="2", planner=recipe.planner, seed=derive_seed(seed, "cell-plan")
    )
    episodes = run_episodes(simulator, actor, tasks, record=True)
    row = summarise(
        episodes, tasks, agent="mode-2", planner=recipe.planner, seed=seed, device=str(trained.device)
    )
    distances = torch.stack(
        [simulator.distance(state, tasks.goal) for state in episodes.states]
    )  # (T + 1, B)
    kept = ("success_rate", "ci95", "success_rate_final", "episodes", "num_steps", "bounds_respected")
    return {
        **{key: row[key] for key in kept},
        "start_distance": float(distances[0].mean()),
        "end_distance": float(distances[-1].mean()),
    }
