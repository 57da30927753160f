"""The first screen: what was run, how it went, and how to run it again."""

from __future__ import annotations

from benchmarks.report.diagnostics import alarm_banner
from benchmarks.report.results_table import Evaluation, headline_evaluations
from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.wording import (
    NBSP,
    copyable,
    duration,
    interval,
    median_and_p90,
    number,
    percent,
    text,
    title,
)

_ACTORS = {
    "mode-2": "Planning on the learned model (Mode-2)",
    "mode-2+1": "Planning from the policy's proposal (Mode-2 with Mode-1)",
    "mode-1": "The policy alone (Mode-1)",
}


def header(files: RunFiles) -> str:
    """Write the page's header from ``config.json`` and the headline rows of ``results.json``."""
    config = files.config or {}
    evaluations = headline_evaluations(files.results)
    environment = (config.get("store") or {}).get("env") or {}
    task = next((e.get("task") for e in evaluations.values() if e.get("task")), environment.get("id"))
    command = config.get("command")
    again = copyable(command) if command else '<p class="muted">The run folder does not hold its command.</p>'
    return f"""<header>
<p class="eyebrow">{text(task) if task else "World model"}</p>
<h1>{text(files.name)}</h1>
{alarm_banner(files)}
<p class="headline">{_headline(evaluations)}</p>
{_scores(evaluations)}
<h2 class="minor">Run it again</h2>
{again}
{_facts(config)}
{_time_bar(config.get("seconds") or {})}
</header>"""


def _headline(evaluations: dict[str, Evaluation]) -> str:
    """Say the two success rates in one sentence, or that there are none yet."""
    if not evaluations:
        return "Not evaluated yet; a section without its data says which command fills it."
    clauses = []
    for mode, evaluation in evaluations.items():
        episodes = evaluation.get("episodes")
        tasks = f" of {number(episodes)} tasks" if episodes is not None else " of the tasks"
        bounds = f" (95{NBSP}% interval {interval(evaluation.get('ci95'))})" if evaluation.get("ci95") else ""
        plan_ms = (evaluation.get("plan_ms") or {}).get("mean")
        speed = f" at {number(plan_ms, 2)}{NBSP}ms per action and episode" if plan_ms is not None else ""
        actor = _ACTORS[mode]
        clauses.append(
            f"{actor} reaches the goal in "
            f"<strong>{percent(evaluation.get('success_rate'))}</strong>{tasks}{bounds}{speed}."
        )
    return " ".join(clauses)


def _scores(evaluations: dict[str, Evaluation]) -> str:
    cards = []
    for mode, evaluation in evaluations.items():
        planner = evaluation.get("planner")
        facts = {
            f"95{NBSP}% interval": interval(evaluation.get("ci95")),
            "steps, median / p90": median_and_p90(evaluation.get("steps_to_success")),
            "ms per action, all episodes together": number((evaluation.get("plan_ms") or {}).get("mean"), 2),
            "ms per action, one episode alone": number(evaluation.get("latency_ms"), 2),
        }
        rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
        cards.append(
            f'<div class="score"><p class="score-name">{title(mode)}'
            f"{f' <span>{text(planner)}</span>' if planner else ''}</p>"
            f'<p class="score-value">{percent(evaluation.get("success_rate"), unit=False)}<span>%</span></p>'
            f"<dl>{rows}</dl></div>"
        )
    return f'<div class="scores">{"".join(cards)}</div>' if cards else ""


def _facts(config: Json) -> str:
    store = config.get("store") or {}
    environment = store.get("env") or {}
    kwargs = environment.get("kwargs") or {}
    sizes = [
        f"{number(store[key], 9)} {unit}"
        for key, unit in (("num_episodes", "episodes"), ("num_steps", "steps"))
        if store.get(key) is not None
    ]
    threads = config.get("threads")
    machine = [str(config["device"])] if config.get("device") else []
    machine += [f"{threads} {'thread' if threads == 1 else 'threads'}"] if threads is not None else []
    facts = {
        "Environment": environment.get("id"),
        "Options": ", ".join(f"{key}={value}" for key, value in kwargs.items()) or None,
        "Data": ", ".join(sizes) or None,
        "Store": store.get("path"),
        "Seed": config.get("seed"),
        "Device": ", ".join(machine) or None,
    }
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _time_bar(seconds: Json) -> str:
    """Draw the share of each stage in the run's time as one bar with a legend."""
    spent = {stage: float(value) for stage, value in seconds.items() if value and stage != "total"}
    if not spent:
        return ""
    total = sum(spent.values())
    bar = "".join(
        f'<span class="stage-{index % 6}" style="flex-grow:{value / total:.5f}"></span>'
        for index, value in enumerate(spent.values())
    )
    legend = "".join(
        f'<li><i class="stage-{index % 6}"></i>{text(title(stage))} <b>{duration(value)}</b></li>'
        for index, (stage, value) in enumerate(spent.items())
    )
    return (
        f'<h2 class="minor">Where the time went: {duration(total)}</h2>'
        f'<div class="time-bar" aria-hidden="true">{bar}</div><ul class="time-legend">{legend}</ul>'
    )
