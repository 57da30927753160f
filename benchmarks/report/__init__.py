"""A run folder, or a folder of ablations, as one self-contained HTML page; episodes as an animation."""

from benchmarks.report.ablations import holds_ablations, render_ablations
from benchmarks.report.gif import write_gif
from benchmarks.report.page import render_report

__all__ = ["holds_ablations", "render_ablations", "render_report", "write_gif"]
