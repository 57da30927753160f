"""Planned episodes as canvas animations: the markup and the data that ``player.js`` draws."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from benchmarks.report.run_files import Json, RunFiles
from benchmarks.report.wording import missing, number, text, title

_SPEEDS = {"0.25": "¼×", "0.5": "½×", "1": "1×", "2": "2×", "4": "4×"}
_CAPTION = """The faint line is the whole path the agent took; at each step the imagined path starts at the
agent and shows where the model expects its plan to lead, so a plan that crosses a wall is a model that does
not know the wall. Select one to enlarge it."""
_DRAWN = ("start", "goal", "rects", "path", "imagined")


def episodes_section(files: RunFiles) -> str:
    """Write the section from ``media/episodes.json``."""
    data = files.episodes
    if not data or not data.get("episodes"):
        if films := "".join(_film(agent, path) for agent, path in files.films.items()):
            return f'<section id="episodes"><h2>Episodes</h2>{films}</section>'
        body = missing("There are no recorded episodes yet.", files.evaluate_command)
        return f'<section id="episodes"><h2>Planned episodes</h2>{body}</section>'
    episodes = data["episodes"]
    radius = data.get("success_radius")
    near = f" (within {number(radius)} {text(data.get('unit', ''))})" if radius is not None else ""
    return f"""<section id="episodes" class="player"><h2>Planned episodes</h2>
{_controls(episodes)}
<p class="legend"><span><i class="key dot"></i>agent and its path</span>
<span><i class="key imagined"></i>path imagined by the model</span>
<span><i class="key start"></i>start</span><span><i class="key goal"></i>goal{near}</span></p>
<div class="episodes">{"".join(_tile(index, episode) for index, episode in enumerate(episodes))}</div>
<p class="nothing" hidden>No episode matches.</p>
<noscript><p class="missing">The animations need JavaScript.</p></noscript>
<p class="caption">{_CAPTION}</p>
<script type="application/json" class="player-data">{script_json(_drawing(data))}</script>
</section>"""


def _film(agent: str, path: Path) -> str:
    film = base64.b64encode(path.read_bytes()).decode()
    about = (
        f"{title(agent)}: the goal is drawn faintly over each world; a border turns green when it is reached."
    )
    return (
        f'<figure class="study"><img alt="{text(title(agent))}" src="data:image/gif;base64,{film}">'
        f"<figcaption>{text(about)}</figcaption></figure>"
    )


def script_json(value: object) -> str:
    """Write JSON that can stand inside a ``<script>`` element whatever its strings contain."""
    written = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _controls(episodes: list[Json]) -> str:
    reached = sum(bool(episode.get("success")) for episode in episodes)
    outcomes = {
        "": f"all {len(episodes)}",
        "success": f"{reached} reached",
        "failure": f"{len(episodes) - reached} not reached",
    }
    agents = dict.fromkeys(str(episode.get("agent")) for episode in episodes)
    every_agent = {"": "all", **{agent: title(agent) for agent in agents}}
    return f"""<div class="controls">
<button type="button" class="play" aria-pressed="false"><span class="icon" aria-hidden="true"></span>
<span class="play-label">Play</span></button>
<label class="scrub"><span class="visually-hidden">Step</span>
<input type="range" class="scrubber" min="0" max="1" step="0.01" value="0"></label>
<output class="step">step 0</output>
{_select("Speed", "speed", _SPEEDS, "1")}
{_select("Show", "outcome", outcomes, "")}
{_select("Agent", "agent", every_agent, "") if len(agents) > 1 else ""}
<label><input type="checkbox" class="every"> all imagined paths</label>
</div>"""


def _select(label: str, name: str, options: dict[str, str], selected: str) -> str:
    written = "".join(
        f'<option value="{text(value)}"{" selected" if value == selected else ""}>{text(words)}</option>'
        for value, words in options.items()
    )
    return f'<label>{label} <select class="{name}">{written}</select></label>'


def _tile(index: int, episode: Json) -> str:
    success = bool(episode.get("success"))
    steps = episode.get("steps_to_success")
    if success:
        outcome = f"reached in {number(steps)} steps" if steps is not None else "reached"
    else:
        outcome = f"not reached in {max(len(episode.get('path') or []) - 1, 0)} steps"
    kind = "success" if success else "failure"
    agent = text(title(str(episode.get("agent") or "")))
    return (
        f'<figure class="episode {kind}" data-index="{index}" data-outcome="{kind}"'
        f' data-agent="{text(episode.get("agent"))}">'
        f'<canvas role="button" tabindex="0" aria-label="{agent}, {outcome}; enlarge"></canvas>'
        f"<figcaption><b>{agent}</b> <span>{outcome}</span></figcaption></figure>"
    )


def _drawing(data: Json) -> Json:
    """Keep what the player draws, with coordinates rounded to what a screen can show."""
    return {
        "extent": data.get("extent"),
        "success_radius": data.get("success_radius"),
        "episodes": [{key: _rounded(e.get(key)) for key in _DRAWN} for e in data["episodes"]],
    }


def _rounded(value: object) -> object:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value
