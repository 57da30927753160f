"""A run: the folder that holds what was trained, how, and what came of it.

``config.json  metrics.jsonl  model/  critic/  policy/  results.json  media/  report.html``
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.recipes import Recipe, recipe_from_json
from worldmodel.checkpoint import CheckpointError

PACKAGES = ("torch", "numpy", "gymnasium", "pylance")


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
    return " ".join(["worldmodel", *sys.argv[1:]])


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Write JSON so that a kill leaves the previous file or the next one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(value, indent=2) + "\n")
    staging.replace(path)


def write_config(run: Path, recipe: Recipe, **facts: Any) -> None:  # noqa: ANN401
    """Write or extend ``config.json``: the resolved recipe, and facts about how it was run."""
    path = run / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    seconds = {**config.get("seconds", {}), **facts.pop("seconds", {})}
    config |= {
        "recipe": dataclasses.asdict(recipe),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **facts,
        "seconds": seconds,
    }
    write_json(path, config)


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
    """Read the resolved recipe of a run."""
    try:
        return recipe_from_json(read_config(run)["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"config.json must hold a recipe, got {run / 'config.json'}: {error}") from error


def read_results(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations of ``results.json``, none if there is no such file."""
    path = run / "results.json"
    return json.loads(path.read_text())["evaluations"] if path.exists() else []


def add_results(run: Path, evaluations: list[dict[str, Any]]) -> None:
    """Add evaluations; one of the same agent, planner, task and split takes the place of the earlier."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["agent"], row["planner"], row["task"], row["split"]

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
