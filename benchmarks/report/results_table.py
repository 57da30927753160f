"""The results table: one group per task and split, reference rows apart, intervals drawn in the cell."""

from __future__ import annotations

from itertools import groupby

from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.wording import (
    MISSING,
    copyable,
    duration,
    interval,
    median_and_p90,
    missing,
    number,
    percent,
    text,
    title,
)

Evaluation = Json

_MODES = {
    "mode-2": "plans on the learned model",
    "mode-2+1": "plans, the policy proposes first",
    "mode-1": "policy alone, no planning",
}
_REFERENCES = {
    "oracle": "same planner on the true simulator",
    "oracle-straight": "the same by straight distance",
    "expert": "scripted, knows the true state",
    "straight-line": "straight towards the goal",
    "correlated": "correlated noise",
    "random": "random actions",
    "zero": "no action",
}
_HEAD = """<thead><tr><th scope="col">Agent</th><th scope="col" class="rate">Success ever
<span class="scale" aria-hidden="true"><i>0</i><i>50</i><i>100&nbsp;%</i></span></th>
<th scope="col">At the end</th><th scope="col">Steps<small>median / p90</small></th>
<th scope="col">ms per action<small>all together</small></th><th scope="col">Action bounds</th>
<th scope="col">Episodes</th></tr></thead>"""
_CAPTION = """Each bar runs from 0 to 100&nbsp;%: the mark is the share of episodes that ever reached the
goal within the step budget, the strong band its 95&nbsp;% Wilson interval; two rows whose bands do not
overlap differ by more than luck. <em>At the end</em> counts the episodes still at the goal on the last
step. Steps are counted over successful episodes only. <em>Within</em> a narrower
radius, in the units of the environment's distance, are as many ever and at the end."""
_ORDER = [*_MODES, *_REFERENCES]


def headline_evaluations(results: Json | None) -> dict[str, Evaluation]:
    """Pick the last Mode-2 and the last Mode-1 evaluation, of the task and split evaluated last."""
    learned = [e for e in (results or {}).get("evaluations", []) if e.get("agent") in _MODES]
    if not learned:
        return {}
    last = _group(learned[-1])
    by_mode = {e["agent"]: e for e in learned if _group(e) == last}
    return {mode: by_mode[mode] for mode in _MODES if mode in by_mode}


def results_section(files: RunFiles) -> str:
    """Write the section from ``results.json``."""
    evaluations = (files.results or {}).get("evaluations", [])
    if not evaluations:
        body = missing("There are no evaluations yet.", files.evaluate_command)
        return f'<section id="results"><h2>Results</h2>{body}</section>'
    tables = []
    for (task, split), group in groupby(sorted(evaluations, key=_sort_key), key=_group):
        tables.append(_table(task, split, list(group)))
    return f"""<section id="results"><h2>Results</h2>
{"".join(tables)}
<p class="caption">{_CAPTION}</p>
{_provenance(sorted(evaluations, key=_sort_key))}
</section>"""


def _group(evaluation: Evaluation) -> tuple[str, str]:
    return str(evaluation.get("task") or ""), str(evaluation.get("split") or "")


def _sort_key(evaluation: Evaluation) -> tuple[str, str, int]:
    agent = evaluation.get("agent")
    return *_group(evaluation), _ORDER.index(agent) if agent in _ORDER else len(_MODES)


def _table(task: str, split: str, evaluations: list[Evaluation]) -> str:
    learned = "".join(_row(e) for e in evaluations if e.get("agent") not in _REFERENCES)
    references = "".join(_row(e) for e in evaluations if e.get("agent") in _REFERENCES)
    divider = '<tr class="divider"><th colspan="7" scope="rowgroup">For reference</th></tr>'
    name = f"<b>{text(task)}</b>" if task else "Evaluation"
    return f"""<table class="results"><caption>{name}{f", split {text(split)}" if split else ""}</caption>
{_HEAD}
<tbody>{learned}</tbody>
{f'<tbody class="references">{divider}{references}</tbody>' if references else ""}</table>"""


def _row(evaluation: Evaluation) -> str:
    agent = str(evaluation.get("agent") or MISSING)
    how = " · ".join(text(evaluation[key]) for key in ("planner", "policy", "model") if evaluation.get(key))
    how = f" <span>{how}</span>" if how else ""
    note = _MODES.get(agent) or _REFERENCES.get(agent) or ""
    kept = evaluation.get("bounds_respected")
    bounds = MISSING if kept is None else "kept" if kept else "<strong class='broken'>not kept</strong>"
    cells = (
        ("At the end", percent(evaluation.get("success_rate_final"))),
        ("Steps, median / p90", median_and_p90(evaluation.get("steps_to_success"))),
        ("ms per action", number((evaluation.get("plan_ms") or {}).get("mean"), 2)),
        ("Action bounds", bounds),
        ("Episodes", number(evaluation.get("episodes"))),
    )
    return (
        f'<tr><th scope="row">{text(title(agent))}{how}<small>{note}</small></th>'
        f'<td class="rate"><div class="rate-cell"><span><b>{percent(evaluation.get("success_rate"))}</b>'
        f"<small>{interval(evaluation.get('ci95'))}</small>{_strict(evaluation)}</span>"
        f"{_interval_bar(evaluation)}</div></td>"
        + "".join(f'<td data-label="{label}">{value}</td>' for label, value in cells)
        + "</tr>"
    )


def _strict(evaluation: Evaluation) -> str:
    """Say the success within the narrower radius, where there is one."""
    strict = evaluation.get("strict")
    if not strict:
        return ""
    ever, final = percent(strict["success_rate"]), percent(strict["success_rate_final"])
    return f"<small>within {number(strict['radius'])}: {ever}, at the end {final}</small>"


def _interval_bar(evaluation: Evaluation) -> str:
    """Draw the rate and its interval on an axis from 0 to 100 %."""
    rate = evaluation.get("success_rate")
    if rate is None:
        return ""
    low, high = evaluation.get("ci95") or (rate, rate)
    band = max(100 * (high - low), 0.5)
    return (
        '<svg class="interval" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="axis" d="M0 6H100M0 3V9M50 3V9M100 3V9"/>'
        f'<rect class="upto" x="0" y="4" width="{100 * rate:.2f}" height="4"/>'
        f'<rect class="band" x="{100 * low:.2f}" y="3" width="{band:.2f}" height="6"/>'
        f'<path class="mark" d="M{100 * rate:.2f} 0V12"/></svg>'
    )


def _provenance(evaluations: list[Evaluation]) -> str:
    """List the command, seeds, machine and cost of every row."""
    items = []
    for evaluation in evaluations:
        said = {
            "seeds": evaluation.get("seeds"),
            "device": evaluation.get("device"),
            "environment steps": number(evaluation.get("env_steps"), 9),
            "time": duration(evaluation.get("wall_s")),
            "versions": _versions(evaluation.get("versions")),
        }
        facts = ", ".join(
            f"{name} {text(value)}" for name, value in said.items() if value not in (None, MISSING)
        )
        command = evaluation.get("command")
        items.append(
            f"<li><b>{text(evaluation.get('agent'))}</b> <span class='muted'>{facts}</span>"
            f"{copyable(command) if command else ''}</li>"
        )
    return f"""<details><summary>How each row was made</summary>
<ul class="provenance">{"".join(items)}</ul></details>"""


def _versions(versions: Json | str | None) -> str | None:
    return " ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else versions
