"""The studies of the run: their figures, as `worldmodel bench` drew them."""

from __future__ import annotations

import base64
import shlex

from benchmarks.report.run_files import RunFiles
from benchmarks.report.wording import missing, text

_STUDIES = {  # file, title, what the figure shows
    "planners": (
        "Costs, horizons and planners",
        "Success and milliseconds per action (all episodes together) on the same tasks; every planner imagines about "
        "as many futures per plan, so a longer horizon costs in proportion.",
    ),
    "policies": (
        "Planning, reacting, and both",
        "Success of the planner with fewer samples, alone and warm-started by a policy; dashed: the policy alone.",
    ),
    "generalisation": (
        "Factors of variation that the data never had",
        "One factor is changed at a time, at last all together, by a share of the way to their last values. The grey "
        "line is the same planner on the true simulator, under the same factors.",
    ),
}


def studies_section(files: RunFiles) -> str:
    """Write the section from ``studies/*.png``; empty where a run was not studied."""
    drawn = []
    for name, (heading, about) in _STUDIES.items():
        path = files.folder / "studies" / f"{name}.png"
        if not path.exists():
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        drawn.append(
            f'<figure id="study-{name}" class="study"><h3>{text(heading)}</h3>'
            f'<img alt="{text(heading)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text(about)} Bands are 95&nbsp;% Wilson intervals.</figcaption></figure>"
        )
    if not drawn:
        command = f"worldmodel bench policies {shlex.quote(str(files.folder))}"
        body = missing("This run has not been studied.", command)
        return f'<section id="studies"><h2>Studies</h2>{body}</section>'
    return f'<section id="studies"><h2>Studies</h2>{"".join(drawn)}</section>'
