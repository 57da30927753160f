"""Speed of the trajectory store: random windows beside a memory-mapped array, writing and verifying.

All ways of drawing windows take turns in one run on one thread with the data in the page cache, so their
ratios hold where the absolute figures do not. The memory map is gathered by one fancy index, the fastest way
with numpy, and like the others it returns a fresh batch that the caller may keep.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.data import ArraySpec, ResidentWindows, StreamingWindows, TrajectoryStore

_SHAPE, _BATCH, _LENGTH, _ROWS = (3, 64, 64), 128, 8, 100
_RESIDENT_SHARE = 0.8  # of the memory map's speed that resident windows promise


def run(smoke: bool = False) -> list[dict[str, Any]]:
    """Measure on one thread; the fastest of many interleaved rounds counts.

    Args:
        smoke: a small store and few rounds, to see that the measurement works.

    Returns:
        One row per figure: ``name``, ``value``, ``unit``, ``target`` in that unit (or None), and what it is
        to be compared with as ``baseline_name`` and ``baseline_value``. Higher is better.
    """
    num_episodes, rounds = (20, 3) if smoke else (300, 40)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), num_episodes, rounds)
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, num_episodes: int, rounds: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (num_episodes, _ROWS, *_SHAPE), dtype=np.uint8)
    gigabytes = frames.nbytes / 1e9
    spec = {"pixels": ArraySpec("uint8", _SHAPE)}
    store = TrajectoryStore.create(folder / "store", spec, env={"id": "benchmark"})
    append_s = _seconds(partial(store.append, {"pixels": frames}, seeds=range(num_episodes)))
    plain_s = _seconds(partial(frames.tofile, folder / "frames.bin"))
    verify_s = _seconds(lambda: store.verify().raise_if_damaged())
    crc_s = _seconds(partial(zlib.crc32, frames.data))
    del frames

    mapped = np.memmap(folder / "frames.bin", dtype=np.uint8, mode="r").reshape(-1, *_SHAPE)
    loads: dict[str, Callable[[], object]] = {
        "store": partial(ResidentWindows, store, ["pixels"], _LENGTH),
        "copy": partial(np.array, mapped),
    }
    load_times = _interleave(loads, rounds=3)
    resident = ResidentWindows(store, ["pixels"], _LENGTH)
    starts = resident.starts.numpy()
    steps = np.arange(_LENGTH)
    torch_generator = torch.Generator().manual_seed(0)

    def draw_mapped() -> torch.Tensor:
        rows = starts[generator.integers(len(starts), size=_BATCH)]
        return torch.from_numpy(mapped[rows[:, None] + steps])

    with StreamingWindows(store, ["pixels"], _LENGTH, prefetch=0) as streaming:
        times = _interleave(
            {
                "memory map": draw_mapped,
                "resident": partial(resident.sample, _BATCH, torch_generator),
                "streaming": partial(streaming.sample, _BATCH, torch_generator),
            },
            rounds,
        )
    speed = {name: _BATCH * _LENGTH / seconds for name, seconds in times.items()}
    loading = {name: gigabytes / seconds for name, seconds in load_times.items()}
    size = f"{_SHAPE[1]}x{_SHAPE[2]}x{_SHAPE[0]}, batch {_BATCH}, T {_LENGTH}"
    mapped_speed = speed["memory map"]
    baseline = "memory-mapped array"
    return [
        _row(
            f"resident windows ({size})",
            speed["resident"],
            "frames/s",
            baseline,
            mapped_speed,
            target=_RESIDENT_SHARE * mapped_speed,
        ),
        _row(f"streaming windows ({size})", speed["streaming"], "frames/s", baseline, mapped_speed),
        _row("load into resident windows", loading["store"], "GB/s", "copy of a memory map", loading["copy"]),
        _row("append", gigabytes / append_s, "GB/s", "numpy tofile", gigabytes / plain_s),
        _row("verify", gigabytes / verify_s, "GB/s", "zlib.crc32 in memory", gigabytes / crc_s),
    ]


def _row(
    name: str, value: float, unit: str, baseline_name: str, baseline_value: float, target: float | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "target": target,
        "baseline_name": baseline_name,
        "baseline_value": baseline_value,
    }


def _interleave(draws: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Fewest seconds of each call, since what else the machine does only adds; the first round is warm-up."""
    times: dict[str, list[float]] = {name: [] for name in draws}
    for number in range(rounds + 1):
        for name, draw in draws.items():
            seconds = _seconds(draw)
            if number:
                times[name].append(seconds)
    return {name: min(seconds) for name, seconds in times.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
