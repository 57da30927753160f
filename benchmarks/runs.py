"""A run: the folder that holds what was trained, how, and what came of it.

``config.json  metrics.jsonl  model/  readout/  critic/  policy/  policy-dagger/  results.json  media/  report.html``
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.recipes import Recipe, recipe_from_json
from worldmodel.checkpoint import CheckpointError

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "pylance")


class RunError(ValueError):
    """A run folder that cannot be used, with the reason in one sentence."""


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("worldmodel", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def command_line() -> str:
    """Return the command as a user would type it again."""
    return shlex.join(["worldmodel", *sys.argv[1:]])


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:  # noqa: ANN401
    """Write JSON so that a kill leaves the previous file or the next one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(value, indent=indent) + "\n")
    staging.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that :func:`write_json` wrote."""
    return json.loads(path.read_text())


def write_config(run: Path, recipe: Recipe, **facts: Any) -> None:  # noqa: ANN401
    """Write or extend ``config.json``: the resolved recipe, and facts about how it was run."""
    path = run / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    seconds = dict(config.get("seconds", {}))
    for part, spent in facts.pop("seconds", {}).items():
        seconds[part] = round(seconds.get(part, 0.0) + spent, 1)  # a resumed part goes on counting
    config |= {
        "recipe": dataclasses.asdict(recipe),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **facts,
        "seconds": seconds,
    }
    write_json(path, config)


def begin_run(run: Path, recipe: Recipe, *, seed: int, device: str, store: Mapping[str, Any]) -> None:
    """Write what a run is before its first step, or check that a run to be continued is this one.

    Raises:
        RunError: the folder holds a run with another recipe, seed or store.
    """
    check_same_run(run, recipe, seed)
    if (run / "config.json").exists():
        earlier = read_config(run).get("store", {})
        sizes = ("num_episodes", "num_steps")
        if earlier and any(earlier[key] != store[key] for key in sizes):
            raise RunError(
                f"{run} must be continued with the same data of {earlier['num_episodes']} episodes, "
                f"got {store['num_episodes']}; choose another --out"
            )
    write_config(run, recipe, seed=seed, device=device, store=dict(store), command=command_line())


def check_same_run(run: Path, recipe: Recipe, seed: int) -> None:
    """A run folder holds one run: going on with other settings would mix two.

    Raises:
        RunError: the folder holds a run with another recipe or seed.
    """
    if not (run / "config.json").exists():
        return
    config = read_config(run)
    if config.get("seed", seed) != seed:
        raise RunError(
            f"{run} must be continued with the same seed {config['seed']}, got {seed}; choose another --out"
        )
    theirs, ours = config.get("recipe", {}), json.loads(json.dumps(dataclasses.asdict(recipe)))
    trained = (
        "collect",
        "model",
        "objective",
        "world_model",
        "predictor",
        "readout",
        "critic",
        "actor",
        "distill",
    )
    changed = [key for key in trained if key in theirs and theirs[key] != ours[key]]
    if changed:
        raise RunError(
            f"{run} must be continued with the same recipe, got other {', '.join(changed)}; "
            "choose another --out"
        )


def read_config(run: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        RunError: there is none, or it is not JSON.
    """
    path = run / "config.json"
    if not path.exists():
        raise RunError(f"a run must have the file config.json, got {run} without it")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunError(f"config.json must be JSON, got {path}: {error}") from error


def read_recipe(run: Path) -> Recipe:
    """Read the resolved recipe of a run.

    Raises:
        RunError: there is no ``config.json``, or no recipe in it.
    """
    config = read_config(run)
    try:
        return recipe_from_json(config["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"config.json must hold a recipe, got {run / 'config.json'}: {error}") from error


def read_results(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations of ``results.json``, none if there is no such file."""
    path = run / "results.json"
    return json.loads(path.read_text())["evaluations"] if path.exists() else []


def add_results(run: Path, evaluations: list[dict[str, Any]]) -> None:
    """Add evaluations; one of the same agent, planner settings, policy, tasks and seed takes the place of the earlier."""

    def key(row: Mapping[str, Any]) -> str:
        same = (
            "agent",
            "policy",
            "task",
            "split",
            "episodes",
            "num_steps",
            "task_seed",
            "variation",
            "seeds",
        )
        settings = row.get("planner_settings")
        if settings and row["agent"].startswith("oracle"):
            settings = {**settings, "cost": None}  # which follows from its name; 0.2 wrote the recipe's
        return json.dumps([settings, *(row.get(name) or None for name in same)], sort_keys=True)

    fresh = {key(row) for row in evaluations}
    kept = [row for row in read_results(run) if key(row) not in fresh]
    write_json(run / "results.json", {"evaluations": kept + evaluations})


def require_part(run: Path, name: str, hint: str) -> Path:
    """Return the checkpoint folder ``run/name``, or say what makes it.

    Raises:
        CheckpointError: the folder does not exist.
    """
    path = run / name
    if not (path / "config.json").exists():
        raise CheckpointError(f"run must have a trained {name}, got {run} without it: {hint}")
    return path
