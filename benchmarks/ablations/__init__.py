"""Ablations: a recipe is trained again with one thing changed, and evaluated on the same tasks."""

from benchmarks.ablations.axes import ABLATIONS, Ablation
from benchmarks.ablations.run import run_ablations

__all__ = ["ABLATIONS", "Ablation", "run_ablations"]
