"""The report as one HTML file that needs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
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

_SECTIONS = {  # the section's id, what the navigation calls it, and what writes it
    "results": ("Results", results_section),
    "studies": ("Studies", studies_section),
    "episodes": ("Episodes", episodes_section),
    "cost-maps": ("Cost maps", cost_maps_section),
    "probe": ("Probe", probe_section),
    "probes": ("Readouts", probes_section),
    "diagnostics": ("Diagnostics", diagnostics_section),
    "training": ("Training", curves_section),
    "config": ("Configuration", config_section),
}


def render_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder from the files it holds, and return its path.

    A section whose file is missing says which command fills it; those that need a map are left out of a world that is
    none. The same files give the same bytes.

    Raises:
        ValueError: ``run`` is not a folder, or one of its files is malformed.
    """
    files = read_run(run)
    written = {name: (label, section(files)) for name, (label, section) in _SECTIONS.items()}
    sections = {name: (label, html) for name, (label, html) in written.items() if html}
    return write_page(run, title=files.name, header=header(files), sections=sections)


def write_page(folder: Path, *, title: str, header: str, sections: Mapping[str, tuple[str, str]]) -> Path:
    """Write ``report.html`` into a folder, at once, and return its path.

    Args:
        folder: where to.
        title: of the page, plain text.
        header: HTML.
        sections: id -> what the navigation calls it, and its HTML.
    """
    package = package_files(__package__)
    page = Template(package.joinpath("template.html").read_text(encoding="utf-8")).substitute(
        title=text(title),
        style=package.joinpath("style.css").read_text(encoding="utf-8"),
        header=header,
        nav="".join(f'<a href="#{name}">{text(label)}</a>' for name, (label, _) in sections.items()),
        sections="\n".join(html for _, html in sections.values()),
        script=package.joinpath("player.js").read_text(encoding="utf-8"),
    )
    report = folder / "report.html"
    unfinished = folder / f".report-{os.getpid()}.html"
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(report)
    return report
