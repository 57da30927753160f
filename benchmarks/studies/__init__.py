"""Studies of one trained run: many evaluations on the same tasks, one thing changed at a time."""

from benchmarks.studies.run import STUDIES, run_study

__all__ = ["STUDIES", "run_study"]
