"""The steps of a result, each a function between files on disk: evaluate a run, draw what the report needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.agents import LearnedActor, TrainedRun, load_run
from benchmarks.collecting import RECORDED, make_data_policy
from benchmarks.evaluation import (
    Tasks,
    draw_tasks,
    measure_latency,
    run_episodes,
    summarise,
)
from benchmarks.films import film_path, write_film
from benchmarks.policy_checkpoint import POLICIES
from benchmarks.recipes import EvaluationRecipe, PlannerRecipe, Recipe
from benchmarks.recording import (
    PlanarSimulator,
    PlanRecorder,
    choose_rows,
    episode_media,
    imagined_paths,
    is_planar,
    position_probe,
    write_cost_maps,
    write_episodes,
    write_probe,
)
from benchmarks.references import evaluate_references
from benchmarks.runs import RunError, add_results, command_line, read_config, read_recipe, write_json
from benchmarks.seeding import derive_seed

OnStep = Callable[[str, int, int, Mapping[str, float]], None]  # agent, step, steps in all, scalars
EPISODES_KEPT = {"mode-2": 12, "mode-2+1": 4, "mode-1": 4}  # episodes kept for the report


def evaluate_run(
    run: Path,
    *,
    out: Path | None = None,
    modes: tuple[str, ...] | None = None,
    policy: str | None = None,
    with_references: bool = True,
    planner: PlannerRecipe | None = None,
    evaluation: EvaluationRecipe | None = None,
    seed: int | None = None,
    device: str = "cpu",
    with_media: bool = True,
    on_step: OnStep | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a trained run on fresh tasks, beside its reference rows, into ``results.json`` and ``media/``.

    Args:
        run: folder of the run.
        out: where ``results.json`` and ``media/`` go; None is the run itself.
        modes: which modes of the agent, of "1", "2" and "2+1"; None is 1 and 2, or mode 2 alone where the recipe trains
            no policy.
        policy: which of the run's policies acts in mode 1 or proposes in mode 2+1; None takes the recipe's.
        with_references: also evaluate zero, random, straight line, expert and oracle.
        planner: settings of mode 2; None takes the recipe's.
        evaluation: tasks; None takes the recipe's.
        seed: of the planner's samples and the policy's noise; None takes the run's.
        device: of the networks.
        with_media: record episodes, probe error and cost maps for the report.
        on_step: called after each step.

    Returns:
        The new rows of ``results.json``.
    """
    recipe = read_recipe(run)
    out = out or run
    if modes is None:
        modes = ("2",) if recipe.actor is None else ("1", "2")
    is_chosen, policy = policy is not None, policy or recipe.policy
    if recipe.actor is None and policy == POLICIES[0] and any("1" in mode for mode in modes):
        raise RunError(f"mode 1 must have a policy, got {run} of the recipe {recipe.name}, which trains none")
    planner = planner or recipe.planner
    evaluation = evaluation or recipe.evaluation
    if is_chosen and modes == ("2",) and not planner.policy_proposal:
        raise ValueError(
            f"policy must be given with a mode that acts by it, 1 or 2+1, got {policy!r} with mode 2"
        )
    trained = load_run(run, device)
    config = read_config(run)
    seed = int(config.get("seed", 0)) if seed is None else seed
    simulator = trained.simulator
    tasks = draw_tasks(simulator, evaluation)

    rows: list[dict[str, Any]] = []
    media: list[dict[str, Any]] = []
    for mode in sorted(modes, reverse=True):
        actor = LearnedActor(
            trained, simulator, mode=mode, planner=planner, seed=derive_seed(seed, "act", mode), policy=policy
        )
        name = f"mode-{mode}"
        folder = out / "media" if with_media else None
        row, entries = _evaluate_mode(name, actor, trained, tasks, planner, seed, folder, on_step)
        rows.append(row)
        media += entries
    if with_references:
        seed_of_rows = derive_seed(seed, "references")
        rows += evaluate_references(simulator, planner, tasks, seed=seed_of_rows, on_step=on_step)
    add_results(out, rows)
    settings = {
        "planner": dataclasses.asdict(planner),
        "evaluation": dataclasses.asdict(evaluation),
        "seed": seed,
        "device": device,
        "run": str(run),
        "command": command_line(),
    }
    if out.resolve() == run.resolve():
        write_json(out / "config.json", {**config, "evaluate": settings})
    else:
        write_json(out / "config.json", {**config, "evaluate": settings, "command": command_line()})
    if with_media and is_planar(simulator):
        _write_media(out / "media", trained, simulator, recipe, media, derive_seed(seed, "inspect"))
    return rows


def _write_media(
    folder: Path,
    trained: TrainedRun,
    simulator: PlanarSimulator,
    recipe: Recipe,
    media: list[dict[str, Any]],
    seed: int,
) -> None:
    """Write what the report draws: episodes, probe error along rollouts and cost maps."""
    write_episodes(folder / "episodes.json", simulator, media)
    policy = "uniform" if recipe.collect.policy == RECORDED else recipe.collect.policy
    data_policy = make_data_policy(policy, recipe.collect.policy_kwargs)
    write_probe(folder / "probe.json", trained, simulator, data_policy, seed)
    write_cost_maps(folder / "cost_map.json", trained, simulator, seed)


def _evaluate_mode(
    name: str,
    actor: LearnedActor,
    trained: TrainedRun,
    tasks: Tasks,
    planner: PlannerRecipe,
    seed: int,
    media: Path | None,
    on_step: OnStep | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    recorder = PlanRecorder(actor.agent.mpc) if actor.agent.mpc is not None else None

    def report(step: int, total: int) -> None:
        if recorder is not None:
            recorder()
        if on_step is not None:
            on_step(name, step, total, {})

    episodes = run_episodes(trained.simulator, actor, tasks, record=media is not None, on_step=report)
    row = summarise(
        episodes,
        tasks,
        agent=name,
        planner=planner if actor.agent.mpc is not None else None,
        policy=actor.policy if actor.agent.policy is not None else None,
        model=trained.path.name,
        seed=seed,
        device=str(trained.device),
    )
    simulator = actor.simulator
    alone = LearnedActor(
        trained,
        simulator,
        mode=actor.mode,
        planner=planner,
        seed=derive_seed(seed, "latency"),
        policy=actor.policy,
    )
    row["latency_ms"] = measure_latency(simulator, alone, tasks)
    if media is None:
        return row, []
    chosen = choose_rows(episodes.reached, EPISODES_KEPT[name])
    if not is_planar(simulator):
        write_film(film_path(media, name), simulator, tasks, episodes, chosen)
        return row, []
    imagined: list[Any] = [None] * tasks.num_steps
    if recorder is not None:
        probe = position_probe(trained, simulator, derive_seed(seed, "inspect"))
        imagined = imagined_paths(actor, probe, episodes.states, recorder.plans, chosen)
    return row, episode_media(simulator, tasks, episodes, imagined, chosen, name)
