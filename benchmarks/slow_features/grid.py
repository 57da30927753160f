"""Run a grid of cells in parallel processes or on Ray; a kill loses at most the cells that were running."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.slow_features.cell_run import ensure_store, read_cell, run_cell, store_path
from benchmarks.slow_features.cells import Cell

OnCell = Callable[[int, int, dict[str, Any]], None]  # cells done, cells in all, result


class CellError(RuntimeError):
    """A cell of the grid failed; the others go on, and the same command tries it again."""


def run_grid(
    cells: Sequence[Cell],
    size: str,
    out: Path,
    *,
    device: str = "cpu",
    jobs: int | None = None,
    use_ray: bool = False,
    overrides: Sequence[str] = (),
    on_cell: OnCell | None = None,
) -> list[dict[str, Any]]:
    """Run the cells that ``out`` does not hold yet and return the results of all, in order.

    Args:
        cells: what to run.
        size: ``smoke``, ``small`` or ``full``.
        out: gets ``stores/`` and a run folder per cell in ``cells/``.
        device: of the networks.
        jobs: worker processes of one thread each, or tasks that share a GPU on Ray; None is one per CPU core, or one on
            a GPU.
        use_ray: run each cell as a Ray task instead, as many at once as Ray has CPUs.
        overrides: settings of every cell's recipe, such as ``"world_model.num_steps=2000"``.
        on_cell: called as cells finish, those of earlier calls first.

    Raises:
        CellError: cells failed, after all others were run.
    """
    if use_ray and device not in ("cpu", "cuda"):
        raise ValueError(f"device on Ray, which places the tasks, must be cpu or cuda, got {device!r}")
    found = {cell: read_cell(out, cell) for cell in cells}
    results = {cell: result for cell, result in found.items() if result is not None}
    for done, result in enumerate(results.values(), start=1):
        if on_cell is not None:
            on_cell(done, len(cells), result)
    waiting = [cell for cell in cells if cell not in results]
    jobs = jobs or (1 if device.startswith("cuda") else (os.cpu_count() or 1))
    runner = _on_ray if use_ray else _in_processes
    failures: dict[str, BaseException] = {}
    for cell, outcome in runner(waiting, _Job(size, out.resolve(), device, tuple(overrides)), jobs):
        if isinstance(outcome, BaseException):
            failures[cell.name] = outcome
            continue
        results[cell] = outcome
        if on_cell is not None:
            on_cell(len(results), len(cells), outcome)
    if failures:
        name, error = next(iter(failures.items()))
        raise CellError(
            f"every cell must finish, got {len(failures)} that failed, the first {name}: "
            f"{type(error).__name__}: {error}; the same command tries them again"
        )
    return [results[cell] for cell in cells]


@dataclass(frozen=True)
class _Job:
    """What all cells of a grid have in common."""

    size: str
    out: Path
    device: str
    overrides: tuple[str, ...]

    def one_cell_per_store(self, cells: Sequence[Cell]) -> list[Cell]:
        """Choose cells whose stores are all that ``cells`` need: cells of a condition and seed share one."""
        return list({store_path(self.out, cell): cell for cell in cells}.values())


Outcomes = Iterator[tuple[Cell, dict[str, Any] | BaseException]]


def _in_processes(cells: Sequence[Cell], job: _Job, jobs: int) -> Outcomes:
    """Run cells in spawned workers (a forked one must not use Lance)."""
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(cells)), mp_context=context) as pool:
        try:
            # All stores are there before the first cell, since two writers of one store would get in each other's way.
            shared = job.one_cell_per_store(cells)
            list(pool.map(_collect, [job] * len(shared), shared))
            pending = {pool.submit(_run, job, cell): cell for cell in cells}
            for future in concurrent.futures.as_completed(pending):
                error = future.exception()
                yield pending[future], error if error is not None else future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _on_ray(cells: Sequence[Cell], job: _Job, jobs: int) -> Outcomes:
    """Run cells as Ray tasks on a shared file system; on a GPU each task takes ``1 / jobs`` of one."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("a grid on Ray needs: pip install 'worldmodel[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    gpus = 1 / jobs if job.device == "cuda" else 0
    collect = ray.remote(num_cpus=1)(_collect)  # Ray takes functions, not methods
    run = ray.remote(num_cpus=1, num_gpus=gpus)(_run)
    ray.get([collect.remote(job, cell) for cell in job.one_cell_per_store(cells)])
    pending = {run.remote(job, cell): cell for cell in cells}
    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        cell = pending.pop(ready)
        try:
            yield cell, ray.get(ready)
        except ray.exceptions.RayError as error:
            yield cell, error


def _collect(job: _Job, cell: Cell) -> None:
    """Make the cell's store, in a worker."""
    _single_thread()
    ensure_store(cell, job.size, job.out, job.overrides)


def _run(job: _Job, cell: Cell) -> dict[str, Any]:
    """Run the cell, in a worker."""
    _single_thread()
    return run_cell(cell, job.size, job.out, job.device, job.overrides)


def _single_thread() -> None:
    import torch

    from worldmodel.data import tune_malloc

    tune_malloc()
    torch.set_num_threads(1)
