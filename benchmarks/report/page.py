"""The report as one HTML file that needs nothing but itself."""

from __future__ import annotations

import os
from importlib.resources import files as package_files
from pathlib import Path
from string import Template

from benchmarks.report.config_block import config_section
from benchmarks.report.cost_maps import cost_maps_section
from benchmarks.report.curves import curves_section
from benchmarks.report.diagnostics import diagnostics_section
from benchmarks.report.episodes import episodes_section
from benchmarks.report.header import header
from benchmarks.report.probe import probe_section
from benchmarks.report.probes import probes_section
from benchmarks.report.results_table import results_section
from benchmarks.report.run_files import read_run
from benchmarks.report.studies import studies_section
from benchmarks.report.wording import text

_SECTIONS = (
    results_section,
    studies_section,
    episodes_section,
    cost_maps_section,
    probe_section,
    probes_section,
    diagnostics_section,
    curves_section,
    config_section,
)


def render_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder from the files it holds, and return its path.

    A section whose file is missing says which command fills it. The same files give the same bytes.

    Raises:
        ValueError: ``run`` is not a folder, or one of its files is malformed.
    """
    files = read_run(run)
    package = package_files(__package__)
    page = Template(package.joinpath("template.html").read_text(encoding="utf-8")).substitute(
        title=text(files.name),
        style=package.joinpath("style.css").read_text(encoding="utf-8"),
        header=header(files),
        sections="\n".join(section(files) for section in _SECTIONS),
        script=package.joinpath("player.js").read_text(encoding="utf-8"),
    )
    report = run / "report.html"
    unfinished = run / f".report-{os.getpid()}.html"
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(report)
    return report
