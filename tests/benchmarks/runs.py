"""Small trained runs that the tests of evaluation, report and command line share."""

import functools
import tempfile
from pathlib import Path

from benchmarks.catalogue import resolve
from benchmarks.collecting import collect_store
from benchmarks.stages import train_run


@functools.cache
def smoke_run(name: str = "two-rooms", overrides: tuple[str, ...] = ()) -> Path:
    """Train a smoke run once per test session and return its folder, which tests must not change."""
    folder = Path(tempfile.mkdtemp(prefix="worldmodel-smoke-"))
    recipe = resolve(name, "smoke", overrides)
    store = collect_store(recipe.collect, folder / "data", seed=0)
    train_run(recipe, store, folder / "run", seed=0)
    return folder / "run"
