"""What the embedding follows, without labels: the slow-feature alarm, its statistics over training, the components."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.svg import ACCENT, GOAL, INK, inline_svg, set_log_scale, tick_text
from benchmarks.report.wording import missing, number, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COMPONENTS = 64  # drawn
_LEAST_SHARE = 1e-6  # of the variance; smaller components are not drawn
_LEAST_SLOWNESS = 0.1  # top of its axis, lest a constant embedding look lively
_OVER_TRAINING = {  # statistic: (title of its figure, threshold that is drawn if in sight, top of the axis)
    "action_r2": ("action R²", "min_action_r2", 1.0),
    "between_trajectory_share": ("between-trajectory share", None, 1.0),
    "static_ratio": ("static ratio", "max_static_ratio", None),
    "rankme": ("RankMe", None, None),
    "identity_ratio": ("identity ratio", None, None),
}
_NAMES = {
    "action_r2": "action R²",
    "between_trajectory_share": "between-trajectory share",
    "static_ratio": "static ratio",
    "rankme": "RankMe",
    "relative_variance": "relative variance",
    "slowness": "slowness",
    "action_sensitivity": "action sensitivity",
    "identity_ratio": "identity ratio",
    "time_retrieval": "time retrieval",
    "trajectory_retrieval": "trajectory retrieval",
    "distance_steps": "distance with steps",
    "distance_path": "distance with path",
    "distance_rollout": "distance with rollout",
    "action_cka": "CKA with actions",
    "action_cca": "CCA with actions",
}
_CAPTION = """<em>Action R²</em> is how well the recorded actions can be read off the embedding's motion, on
trajectories held out of the fit: 1 fully, 0 not at all; below the dashed line the alarm speaks. The
<em>between-trajectory share</em> of the variance is 1 where the embedding never moves within a trajectory. The
<em>static ratio</em> is what is constant of that readout beside what moves, over whole trajectories; above its
dashed line a background buries the state.
<em>RankMe</em> is the effective rank, which also rises while the state is lost to a background. The
<em>identity ratio</em> is the rollout's error beside that of standing still. <em>Slowness</em> is 0 for a
component that is constant in time and 1 for white noise."""


def diagnostics_section(files: RunFiles) -> str:
    """Write the section from ``diagnostics.json``."""
    data = files.diagnostics
    if not data or not data.get("final"):
        body = missing("The world model has not been diagnosed.", files.diagnose_command)
        return f'<section id="diagnostics"><h2>What the embedding follows</h2>{body}</section>'
    thresholds = data.get("thresholds") or {}
    history = data.get("history") or []
    figures = [
        _over_training(key, label, history, thresholds.get(threshold or ""), top)
        for key, (label, threshold, top) in _OVER_TRAINING.items()
    ]
    figures += _components(data)
    return f"""<section id="diagnostics"><h2>What the embedding follows</h2>
<p>{_verdict(data)}</p>
<div class="curves thirds">{"".join(figures)}</div>
{_numbers(data["final"])}
<p class="caption">{_windows(data)} {_CAPTION}</p></section>"""


def alarm_banner(files: RunFiles) -> str:
    """Write the alarm of ``diagnostics.json`` for the page's header; empty without one."""
    alarm = (files.diagnostics or {}).get("alarm")
    if not alarm:
        return ""
    name = "The embedding has collapsed" if alarm.get("kind") == "collapsed" else "Slow-feature alarm"
    what, separator, command = str(alarm.get("advice")).partition("worldmodel ")
    advice = f"{text(what)}<code>{text(separator + command)}</code>" if separator else text(what)
    return (
        f'<div class="alarm" role="alert"><p><strong>{name}</strong> at step {number(alarm.get("step"), 9)}: '
        f"{text(alarm.get('message'))}.</p><p>What to try: {advice}</p></div>"
    )


def _verdict(data: Json) -> str:
    r2 = data["final"].get("action_r2")
    measured = f" (action R² {number(r2, 2)})" if _is_number(r2) else ""
    alarm, least = data.get("alarm"), (data.get("thresholds") or {}).get("min_trajectories")
    trajectories = data["final"].get("num_trajectories")
    if alarm:
        return f'<strong class="broken">Alarm:</strong> {text(alarm.get("message"))}{measured}.'
    if _is_number(least) and _is_number(trajectories) and trajectories < least:
        return (
            f"The alarm needs {number(least)} trajectories to speak and there are {number(trajectories)}; "
            "the numbers below are uncertain."
        )
    return f"No alarm: the embedding moves with the actions{measured}."


def _windows(data: Json) -> str:
    count, episodes = data.get("num_windows"), data.get("episodes")
    of = {"held-out": "held-out episodes", "training": "the training episodes"}.get(str(episodes), episodes)
    return f"Over {number(count)} windows of {text(of)}." if count and of else ""


def _numbers(final: Json) -> str:
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{number(final[key])}</dd></div>"
        for key, name in _NAMES.items()
        if _is_number(final.get(key))
    )
    return f'<dl class="facts">{rows}</dl>'


def _over_training(key: str, label: str, history: list[Json], threshold: Any, top: float | None) -> str:  # noqa: ANN401
    points = [(line["step"], line[key]) for line in history if _is_number(line.get(key))]
    if not points:
        return ""
    steps, values = zip(*points, strict=True)

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator, MultipleLocator

        axes.plot(steps, values, color=ACCENT, linewidth=1.5, marker="o", markersize=3, clip_on=False)
        axes.set_xlim(left=0)
        axes.set_ylim(min(0.0, *values), max(top or 0.0, 1.05 * max(values)) or 1.0)
        if _is_number(threshold) and threshold < axes.get_ylim()[1]:
            axes.axhline(threshold, color=GOAL, linewidth=1.2, linestyle=(0, (4, 3)))
            right: dict[str, Any] = {"ha": "right", "va": "bottom", "transform": axes.get_yaxis_transform()}
            side = "above" if key == "static_ratio" else "below"
            axes.text(1, threshold, f"alarm {side}", color=GOAL, fontsize=7, **right)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4) if top is None else MultipleLocator(top / 4))
        _finish(axes, label, "optimiser steps")
        axes.set_title(number(float(values[-1])), loc="right", fontsize=8, color=ACCENT)

    return _figure(draw, key, f"{label} over training")


def _components(data: Json) -> list[str]:
    """Draw the spectrum and the slowness per principal component."""
    shares = [value for value in data.get("spectrum") or [] if _is_number(value) and value > _LEAST_SHARE]
    shares = shares[:_MOST_COMPONENTS]
    if not shares:
        return []
    numbers = range(1, len(shares) + 1)
    slow = (data.get("slowness") or [])[: len(shares)]
    figures = []

    def draw_spectrum(axes: Axes) -> None:
        axes.plot(numbers, shares, color=ACCENT, linewidth=1.5, marker="o", markersize=2)
        set_log_scale(axes, min(shares), max(shares))
        axes.set_xlim(0, len(shares) + 1)
        _finish(axes, "spectrum, share of variance", "principal component")

    figures.append(_figure(draw_spectrum, "spectrum", "Share of the variance per principal component"))
    if len(slow) == len(shares) and all(_is_number(value) for value in slow):

        def draw_slowness(axes: Axes) -> None:
            axes.plot(numbers, slow, color=ACCENT, linewidth=1.5, marker="o", markersize=2)
            axes.set_xlim(0, len(shares) + 1)
            axes.set_ylim(0, max(_LEAST_SLOWNESS, 1.05 * max(slow)))
            _finish(axes, "slowness", "principal component")

        figures.append(_figure(draw_slowness, "slowness", "Slowness per principal component"))
    return figures


def _finish(axes: Axes, label: str, below: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: tick_text(tick)))
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.set_xlabel(below, color=INK, labelpad=1)
    axes.set_title(label, loc="left", fontsize=8, color=INK)


def _figure(draw: Callable[[Axes], None], key: str, label: str) -> str:
    svg = inline_svg(draw, size=(190, 122), margins=(28, 25, 6, 16), key=f"diagnostics-{key}", label=label)
    return f'<div class="figure">{svg}</div>'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
