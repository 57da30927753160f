"""The slow-feature benchmark: objectives against distractors, with the label-free alarm beside the truth."""

from benchmarks.slow_features.bench import GridError, run_benchmark
from benchmarks.slow_features.cells import SIZES
from benchmarks.slow_features.grid import CellError

__all__ = ["SIZES", "CellError", "GridError", "run_benchmark"]
