"""``worldmodel bench``: what each benchmark does with its flags; returns what ``--json`` writes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.display import make_console, progress_bar
from benchmarks.flags import key_values


def bench_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure speed."""
    from benchmarks.runs import command_line, versions, write_json
    from benchmarks.speed import run_all, speed_table

    console = make_console(arguments.quiet)
    rows = run_all(
        smoke=arguments.preset == "smoke", on_suite=lambda name: console.print(f"measuring {name} …")
    )
    console.print(speed_table(rows))
    value = {"rows": rows, "versions": versions(), "command": command_line()}
    if arguments.out:
        write_json(Path(arguments.out) / "speed.json", value)
    return value


def bench_slow_features(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train objectives under distractors."""
    from benchmarks.slow_features import run_benchmark

    return run_benchmark(
        Path(arguments.out or f"runs/slow-features-{arguments.size}"),
        size=arguments.size,
        seeds=arguments.seeds,
        objectives=arguments.objectives,
        conditions=arguments.conditions,
        device=arguments.device,
        jobs=arguments.jobs,
        use_ray=arguments.ray,
        overrides=arguments.settings,
        console=make_console(arguments.quiet),
    )


def bench_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate one trained run many times, one thing changed at a time."""
    from benchmarks.display import study_table
    from benchmarks.recipes import with_changes
    from benchmarks.runs import read_recipe
    from benchmarks.studies import run_study
    from benchmarks.studies.cells import Choice

    run = Path(arguments.run)
    evaluation = with_changes(
        read_recipe(run).evaluation, num_tasks=arguments.episodes, num_steps=arguments.steps
    )
    names = ("costs", "horizons", "planners", "factors", "agents")
    console = make_console(arguments.quiet)
    with progress_bar(console, "env steps") as update:
        value = run_study(
            arguments.subverb,
            run,
            out=Path(arguments.out) if arguments.out else None,
            evaluation=evaluation,
            choice=Choice(**{name: getattr(arguments, name, None) for name in names}),
            seed=arguments.seed,
            device=arguments.device,
            on_step=update,
        )
    console.print(study_table(value["rows"]))
    return value


def bench_ablations(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a recipe again and again, one thing changed at a time."""
    from benchmarks.ablations import run_ablations
    from benchmarks.catalogue import resolve
    from benchmarks.display import ablations_table

    console = make_console(arguments.quiet)
    with progress_bar(console, "steps") as update:
        value = run_ablations(
            arguments.ablations,
            resolve(arguments.recipe, arguments.preset, arguments.settings),
            Path(arguments.out or f"runs/ablations-{arguments.recipe}"),
            seeds=arguments.seeds,
            only=arguments.cells,
            device=arguments.device,
            on_step=update,
        )
    console.print(ablations_table(value["rows"]))
    return value


def bench_references(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the reference rows of an environment."""
    from benchmarks.agents import with_planner
    from benchmarks.display import results_table
    from benchmarks.evaluation import draw_tasks
    from benchmarks.recipes import EvaluationRecipe
    from benchmarks.references import evaluate_references, oracle_planner
    from benchmarks.runs import command_line, versions
    from envs.registration import make_simulator

    simulator = make_simulator(arguments.env_id, **key_values(arguments.env_args), device=arguments.device)
    planner = with_planner(
        oracle_planner(arguments.env_id),
        arguments.planner,
        list(key_values(arguments.planner_args).items()),
    )
    budget = arguments.steps or simulator.max_steps
    tasks = draw_tasks(simulator, EvaluationRecipe(num_tasks=arguments.episodes, num_steps=budget))
    console = make_console(arguments.quiet)
    with progress_bar(console, "env steps") as update:
        rows = evaluate_references(simulator, planner, tasks, seed=arguments.seed, on_step=update)
    console.print(results_table(rows))
    env = {"id": simulator.env_id, "kwargs": simulator.kwargs}
    return {"env": env, "evaluations": rows, "versions": versions(), "command": command_line()}


BENCHES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "slow-features": bench_slow_features,
    "planners": bench_study,
    "policies": bench_study,
    "generalisation": bench_study,
    "ablations": bench_ablations,
    "references": bench_references,
    "speed": bench_speed,
}
