"""The command ``worldmodel``: one verb per arrow of the way from environments to reports."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import build_parser
from benchmarks.flags import UsageError, key_values

EXIT_USER_ERROR = 1
EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status; a user's mistake is one line on stderr, without a traceback.

    ``WORLDMODEL_TRACEBACK=1`` shows the traceback of every error.
    """
    try:
        arguments = build_parser().parse_args(argv)
        return VERBS[arguments.verb](arguments)
    except UsageError as error:
        return _fail(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command takes up collecting and training where they stopped", 130)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("WORLDMODEL_TRACEBACK"):
            raise
        return _fail(_one_line(error), EXIT_USER_ERROR)


def _fail(message: str, status: int) -> int:
    print(f"worldmodel: {message}", file=sys.stderr)
    return status


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _prepare(arguments: argparse.Namespace) -> None:
    """Set threads, check the device and tune the allocator, before anything large is imported or allocated."""
    import torch

    from worldmodel.data import tune_malloc

    tune_malloc()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        device = torch.device(arguments.device)
    except RuntimeError:
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {arguments.device!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {arguments.device!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device must be one of {torch.cuda.device_count()} GPUs, got {arguments.device!r}"
        )


def _emit(arguments: argparse.Namespace, value: Any) -> None:  # noqa: ANN401
    """Write the verb's result as JSON where ``--json`` says."""
    if arguments.json == "-":
        print(json.dumps(value, indent=2))
    elif arguments.json is not None:
        from benchmarks.runs import write_json

        write_json(Path(arguments.json), value)


def quickstart(arguments: argparse.Namespace) -> int:
    """From nothing to a report."""
    return _run_recipe(arguments, "two-rooms", None, "quickstart")


def run(arguments: argparse.Namespace) -> int:
    """From nothing to a report, with any recipe."""
    from benchmarks.catalogue import sized

    name = sized(arguments.recipe, arguments.size)
    return _run_recipe(arguments, name, arguments.objective, name)


def _run_recipe(arguments: argparse.Namespace, name: str, objective: str | None, folder: str) -> int:
    _prepare(arguments)
    from benchmarks.display import make_console
    from benchmarks.objectives import resolve_with_objective
    from benchmarks.quickstart import run_quickstart

    recipe = resolve_with_objective(name, objective, arguments.preset, arguments.settings)
    out = Path(arguments.out or f"runs/{folder}-seed{arguments.seed}")
    summary = run_quickstart(
        recipe, out, seed=arguments.seed, device=arguments.device, console=make_console(arguments.quiet)
    )
    _emit(arguments, summary)
    return 0


def collect(arguments: argparse.Namespace) -> int:
    """Record trajectories into a store."""
    _prepare(arguments)
    from benchmarks.collecting import NATIVE_POLICY, collect_store, make_source
    from benchmarks.display import make_console, progress_bar
    from benchmarks.recipes import CollectConfig
    from benchmarks.runs import command_line, versions, write_json

    env_kwargs = key_values(arguments.env_args)
    source = make_source(arguments.env_id, env_kwargs, instances=1)
    config = CollectConfig(
        arguments.env_id,
        env_kwargs,
        policy=arguments.policy or NATIVE_POLICY.get(arguments.env_id, "uniform"),
        policy_kwargs=key_values(arguments.policy_args),
        variation=key_values(arguments.variation),
        num_episodes=arguments.episodes,
        num_steps=arguments.steps or source.max_steps,
        states_only=arguments.states_only,
    )
    with progress_bar(make_console(arguments.quiet), "episodes") as update:
        store = collect_store(
            config,
            arguments.out,
            seed=arguments.seed,
            split=arguments.split,
            device=arguments.device,
            on_chunk=lambda done, total: update("collect", done, total, {}),
        )
    if "://" not in arguments.out:
        held = dataclasses.replace(config, num_episodes=store.num_episodes)
        settings = {"collect": dataclasses.asdict(held), "seed": arguments.seed, "split": arguments.split}
        facts = {"command": command_line(), "versions": versions()}
        write_json(Path(arguments.out) / "config.json", {**settings, **facts})
    _emit(arguments, store_facts(store))
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Train a recipe on a store."""
    _prepare(arguments)
    from functools import partial

    from benchmarks.display import make_console, print_alarm, progress_bar
    from benchmarks.objectives import resolve_with_objective
    from benchmarks.stages import train_run
    from worldmodel.data import TrajectoryStore
    from worldmodel.distributed import rank_and_world_size, start_process_group, stop_process_group
    from worldmodel.metrics import read_metrics

    recipe = resolve_with_objective(
        arguments.recipe, arguments.objective, arguments.preset, arguments.settings
    )
    store = TrajectoryStore.open(arguments.data)
    out = Path(arguments.out)
    device = start_process_group(arguments.device)
    try:
        is_first = rank_and_world_size()[0] == 0
        is_shown = is_first and not arguments.quiet  # a warning is, in any case
        console = make_console(not is_shown)
        with progress_bar(console, "steps") as update:
            train_run(
                recipe,
                store,
                out,
                seed=arguments.seed,
                device=device,
                on_step=update,
                on_warning=partial(print_alarm, console if is_shown else make_console(not is_first)),
                tensorboard=arguments.tensorboard,
            )
    finally:
        stop_process_group()
    if is_first:
        last = {line["stage"]: line for line in read_metrics(out / "metrics.jsonl")}
        _emit(arguments, {"run": str(out), "stages": last})
    return 0


def distill(arguments: argparse.Namespace) -> int:
    """Compile the planner of a trained run into a policy."""
    _prepare(arguments)
    from benchmarks.agents import with_planner
    from benchmarks.display import make_console, progress_bar
    from benchmarks.distilling import METHODS, distill_run
    from benchmarks.recipes import with_settings
    from benchmarks.runs import read_recipe

    run = Path(arguments.run)
    recipe = read_recipe(run)
    planner = with_planner(
        recipe.planner, arguments.planner, list(key_values(arguments.planner_args).items())
    )
    own = recipe.distill if arguments.method == "dagger" else None
    config = with_settings(own or METHODS[arguments.method](), key_values(arguments.settings))
    console = make_console(arguments.quiet)
    with progress_bar(console, "steps") as update:
        facts = distill_run(
            run,
            config,
            planner=planner,
            seed=arguments.seed,
            device=arguments.device,
            on_step=update,
        )
    console.print(
        f"{facts['demonstrations']} demonstrations, {facts['seconds']:.0f} s; "
        f"now: worldmodel evaluate {run} --mode 1 --policy {arguments.method}"
    )
    _emit(arguments, facts)
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a trained run."""
    _prepare(arguments)
    from benchmarks.agents import with_planner
    from benchmarks.display import make_console, progress_bar, results_table
    from benchmarks.pipeline import evaluate_run
    from benchmarks.recipes import with_changes
    from benchmarks.runs import read_recipe

    run = Path(arguments.run)
    recipe = read_recipe(run)
    evaluation = with_changes(
        recipe.evaluation,
        num_tasks=arguments.episodes,
        num_steps=arguments.steps,
        seed=arguments.task_seed,
        variation=key_values(arguments.variation) or None,
    )
    planner = with_planner(
        recipe.planner, arguments.planner, list(key_values(arguments.planner_args).items())
    )
    console = make_console(arguments.quiet)
    with progress_bar(console, "env steps") as update:
        rows = evaluate_run(
            run,
            out=Path(arguments.out) if arguments.out else run,
            modes=(arguments.mode,) if arguments.mode else None,
            policy=arguments.policy,
            with_references=not arguments.no_references,
            planner=planner,
            evaluation=evaluation,
            seed=arguments.seed,
            device=arguments.device,
            on_step=update,
        )
    console.print(results_table(rows))
    _emit(arguments, {"evaluations": rows})
    return 0


def diagnose(arguments: argparse.Namespace) -> int:
    """Compute label-free statistics of a trained run."""
    _prepare(arguments)
    from benchmarks.diagnosing import diagnose_run, read_alarm
    from benchmarks.display import diagnostics_table, make_console, print_alarm

    run = Path(arguments.run)
    found = diagnose_run(run, arguments.store, seed=arguments.seed, device=arguments.device)
    console = make_console(arguments.quiet)
    console.print(diagnostics_table(found["final"]))
    alarm = read_alarm(run)
    least, count = found["thresholds"]["min_trajectories"], found["final"]["num_trajectories"]
    if alarm is not None:
        print_alarm(make_console(), *alarm)
    elif count < least:
        console.print(f"The alarm needs {least} trajectories to speak, got {count:.0f}.")
    else:
        console.print("No alarm.")
    _emit(arguments, found)
    return 0


def probe(arguments: argparse.Namespace) -> int:
    """Probe a trained run."""
    _prepare(arguments)
    from benchmarks.display import make_console, progress_bar
    from benchmarks.probing import probe_run, probe_table
    from worldmodel.probing import ProbeConfig

    console = make_console(arguments.quiet)
    with progress_bar(console, "steps") as update:
        result = probe_run(
            Path(arguments.run),
            arguments.store,
            target=arguments.target,
            config=ProbeConfig(arguments.probe),
            horizons=arguments.horizons,
            trajectories=arguments.trajectories,
            supervised_steps=arguments.supervised_steps,
            seed=arguments.seed,
            device=arguments.device,
            out=Path(arguments.out) if arguments.out else None,
            on_step=update,
        )
    console.print(probe_table(result))
    _emit(arguments, result)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write one HTML page of a run, or of a folder of ablations."""
    from benchmarks.display import make_console
    from benchmarks.report import holds_ablations, render_ablations, render_report, write_gif
    from benchmarks.runs import RunError, read_config

    run = Path(arguments.run)
    if holds_ablations(run):
        if arguments.gif:
            raise RunError(f"an animation must be of a run, got the ablations in {run}")
        path = render_ablations(run)
    else:
        read_config(run)  # one sentence if this is no run
        path = render_report(run)
    written = {"report": str(path)}
    if arguments.gif:
        written["gif"] = str(write_gif(run, run / "media" / "episodes.gif"))
    make_console(arguments.quiet).print(f"report: {path}")
    _emit(arguments, written)
    return 0


def data(arguments: argparse.Namespace) -> int:
    """Look into a store."""
    from benchmarks.display import make_console, progress_bar
    from worldmodel.data import TrajectoryStore

    console = make_console(arguments.quiet)
    store = TrajectoryStore.open(arguments.store)
    if arguments.subverb == "info":
        facts = store_facts(store)
        console.print_json(data=facts) if arguments.json is None else _emit(arguments, facts)
        return 0
    if arguments.subverb == "repair":
        removed = store.repair()
        console.print(f"removed {removed} rows that belonged to no episode")
        _emit(arguments, {"removed_rows": removed})
        return 0
    with progress_bar(console, "MB") as update:
        outcome = store.verify(lambda done, total: update("verify", done // 10**6, total // 10**6, {}))
    damages = [str(damage) for damage in outcome.damages]
    _emit(arguments, {"ok": not damages, "damages": damages})
    if damages:
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise ValueError(f"{damages[0]}{more}")
    console.print(f"{arguments.store}: {store.num_episodes} episodes, every checksum fits")
    return 0


def envs(arguments: argparse.Namespace) -> int:
    """List the environments."""
    from benchmarks.display import make_console
    from envs.registration import make_simulator, registered_ids

    listed: dict[str, dict[str, Any]] = {}
    for env_id in registered_ids():
        simulator = make_simulator(env_id)
        listed[env_id] = {
            "about": (type(simulator).__doc__ or "").strip().splitlines()[0],
            "kwargs": simulator.kwargs,
            "variation": list(simulator.variation_space),
        }
    if arguments.json is None:
        console = make_console(arguments.quiet)
        for env_id, facts in listed.items():
            console.print(f"[bold]{env_id}[/bold]  {facts['about']}")
            console.print(f"  kwargs: {', '.join(f'{k}={v!r}' for k, v in facts['kwargs'].items())}")
            console.print(f"  factors of variation: {', '.join(facts['variation'])}")
    _emit(arguments, listed)
    return 0


def objectives(arguments: argparse.Namespace) -> int:
    """List the objectives."""
    from benchmarks.display import make_console
    from benchmarks.objectives import OBJECTIVES

    if arguments.json is None:
        console = make_console(arguments.quiet)
        for name, setting in OBJECTIVES.items():
            weights = ", ".join(f"{weight:g} {term}" for term, weight in setting.weights.items())
            console.print(f"[bold]{name}[/bold]  {setting.about}\n  {weights}")
    _emit(arguments, {name: dataclasses.asdict(setting) for name, setting in OBJECTIVES.items()})
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Run a benchmark: of objectives, of one trained run, of a recipe's parts, or of speed."""
    from benchmarks.bench import BENCHES

    if arguments.subverb != "speed":
        _prepare(arguments)
    _emit(arguments, BENCHES[arguments.subverb](arguments))
    return 0


def store_facts(store: Any) -> dict[str, Any]:  # noqa: ANN401  # a TrajectoryStore, imported late
    """Return what ``data info`` says of a store."""
    spec = {key: f"{array.dtype}{list(array.shape)}" for key, array in store.spec.items()}
    lengths = store.lengths
    return {
        "path": str(store.path),
        "env": store.env.get("id"),
        "env_kwargs": store.env.get("kwargs"),
        "episodes": store.num_episodes,
        "rows": store.num_steps,
        "steps_per_episode": [int(lengths.min()) - 1, int(lengths.max()) - 1] if len(lengths) else [],
        "splits": {
            str(name): int((store.episodes["split"] == name).sum()) for name in set(store.episodes["split"])
        },
        "columns": spec,
        "metadata": store.metadata,
    }


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "quickstart": quickstart,
    "run": run,
    "collect": collect,
    "train": train,
    "distill": distill,
    "evaluate": evaluate,
    "diagnose": diagnose,
    "probe": probe,
    "report": report,
    "data": data,
    "envs": envs,
    "objectives": objectives,
    "bench": bench,
}

if __name__ == "__main__":
    sys.exit(main())
