"""A run folder as one self-contained HTML page, and its episodes as an animation."""

from benchmarks.report.gif import write_gif
from benchmarks.report.page import render_report

__all__ = ["render_report", "write_gif"]
