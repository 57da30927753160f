"""Run a study: the cells that its file lacks, one after the other, each written when it is done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.agents import LearnedActor, TrainedRun, load_run
from benchmarks.evaluation import Actor, draw_tasks, run_episodes, summarise
from benchmarks.recipes import EvaluationRecipe
from benchmarks.references import reference_actors
from benchmarks.runs import RunError, command_line, read_config, read_json, read_recipe, versions, write_json
from benchmarks.seeding import derive_seed
from benchmarks.studies.cells import (
    Cell,
    Choice,
    Subject,
    generalisation_cells,
    planner_cells,
    policy_cells,
)
from benchmarks.studies.figures import write_figure

OnStep = Callable[[str, int, int, Mapping[str, float]], None]
STUDIES: dict[str, Callable[[Subject], list[Cell]]] = {
    "planners": planner_cells,
    "policies": policy_cells,
    "generalisation": generalisation_cells,
}
KEPT = (  # of an evaluation's row
    "agent",
    "policy",
    "success_rate",
    "ci95",
    "success_rate_final",
    "strict",
    "steps_to_success",
    "plan_ms",
    "bounds_respected",
    "wall_s",
    "variation",
)


def run_study(
    name: str,
    run: Path,
    *,
    out: Path | None = None,
    evaluation: EvaluationRecipe | None = None,
    choice: Choice | None = None,
    seed: int | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Evaluate the cells of a study that its file lacks, then draw its figure.

    Args:
        name: "planners": every cost over every horizon by every planner. "policies": the run's policies alone, and in
            front of a planner with fewer and fewer samples. "generalisation": factors of variation that the data
            never had.
        run: folder of a trained run.
        out: folder of ``<name>.json`` and ``<name>.png``; None is ``run/studies``.
        evaluation: tasks; None takes the recipe's.
        choice: what to leave out; None is nothing.
        seed: of the planners' samples; None takes the run's.
        device: of the networks.
        on_step: called after each step of each cell.

    Returns:
        What was written.

    Raises:
        RunError: the file in ``out`` is of other tasks, of another run or seed.
    """
    recipe, config = read_recipe(run), read_config(run)
    seed = int(config.get("seed", 0)) if seed is None else seed
    trained = load_run(run, device)
    evaluation = evaluation or recipe.evaluation
    subject = Subject(run, recipe, trained.env["id"], evaluation, choice or Choice())
    folder = out or run / "studies"
    path = folder / f"{name}.json"
    setting = {
        "study": name,
        "recipe": recipe.name,
        "training_seed": config.get("seed"),
        "seed": seed,
        "evaluation": json.loads(json.dumps(dataclasses.asdict(evaluation))),
        "device": device,
    }
    value = {**setting, "versions": versions(), "command": command_line(), "rows": _rows(path, setting)}
    done = [row["labels"] for row in value["rows"]]
    cells = STUDIES[name](subject)
    _check_tasks(path, value["rows"], cells)
    cells = [cell for cell in cells if cell.labels not in done]
    for number, cell in enumerate(cells):

        def report(step: int, total: int, cell: str = f"{number + 1}/{len(cells)}") -> None:
            if on_step is not None:
                on_step(cell, step, total, {})

        row = _evaluate(cell, trained, seed, report)
        value["rows"].append({"labels": cell.labels, **{key: row[key] for key in KEPT}})
        write_json(path, value)
    write_figure(name, value["rows"], folder / f"{name}.png")
    return value


def _rows(path: Path, setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    earlier = read_json(path)
    for key, ours in setting.items():
        if earlier.get(key) != ours:
            raise RunError(
                f"{path} must be continued with the same {key}, {earlier.get(key)}, got {ours}; choose another --out"
            )
    return earlier["rows"]


def _check_tasks(path: Path, rows: list[dict[str, Any]], cells: Sequence[Cell]) -> None:
    """Refuse to go on where a cell of the same name had other tasks, as "together" once there are more factors."""
    for cell in cells:
        ours = json.loads(json.dumps(cell.evaluation.variation))
        for row in rows:
            if row["labels"] == cell.labels and row.get("variation", ours) != ours:
                raise RunError(
                    f"{path} must be continued with the same variation of {cell.labels}, {row['variation']}, "
                    f"got {ours}; choose another --out"
                )


def _evaluate(
    cell: Cell, trained: TrainedRun, seed: int, report: Callable[[int, int], None]
) -> dict[str, Any]:
    simulator = trained.simulator
    tasks = draw_tasks(simulator, cell.evaluation)
    actor: Actor
    if cell.agent.startswith("mode-"):
        mode = cell.agent.removeprefix("mode-")
        actor = LearnedActor(
            trained,
            simulator,
            mode=mode,
            planner=cell.planner,
            seed=derive_seed(seed, "act", mode),
            policy=cell.policy,
        )
    else:
        actor = reference_actors(simulator, cell.planner, derive_seed(seed, "references"))[cell.agent]
    episodes = run_episodes(simulator, actor, tasks, on_step=report)
    plans = cell.agent in ("mode-2", "mode-2+1", "oracle")
    return summarise(
        episodes,
        tasks,
        agent=cell.agent,
        planner=cell.planner if plans else None,
        policy=(cell.policy or trained.policy) if "1" in cell.agent else None,
        model=trained.path.name,
        seed=seed,
        device=str(trained.device),
    )
