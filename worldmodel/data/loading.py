"""The choice between windows that are resident and windows that stream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from worldmodel.data.store import TrajectoryStore
from worldmodel.data.streaming import StreamingWindows
from worldmodel.data.windows import Derived, ResidentWindows, stored_keys

_SHARE = 0.5  # of the free memory that resident data may take


def open_windows(
    store: TrajectoryStore,
    keys: Sequence[str],
    length: int,
    *,
    episodes: Sequence[int] | np.ndarray | None = None,
    stride: int = 1,
    device: torch.device | str = "cpu",
    max_bytes: int | None = None,
    derived: Derived | None = None,
) -> ResidentWindows | StreamingWindows:
    """Open windows of T frames: resident on the device where they fit the budget, streaming otherwise.

    Args:
        store: where the episodes are.
        keys: columns to deliver; those that ``derived`` makes may be left out.
        length: T, frames per window.
        episodes: episode indices; None is all.
        stride: distance between the starts of windows within an episode [frames].
        device: where batches shall be.
        max_bytes: budget for resident data; None is half of the memory that is free on the device.
        derived: key -> (source key, function). The function maps rows ``(rows, ...)`` of the source to
            rows of the key, e.g. states to frames, and is applied to every batch.
    """
    budget = free_bytes(device) * _SHARE if max_bytes is None else max_bytes
    chosen = store.index.positions(None if episodes is None else np.asarray(episodes))
    row_bytes = sum(store.key_spec(key).num_bytes for key in stored_keys(keys, derived or {}))
    needed = int(store.index.length[chosen].sum()) * row_bytes
    kind = ResidentWindows if needed <= budget else StreamingWindows
    return kind(store, keys, length, episodes=episodes, stride=stride, device=device, derived=derived)


def free_bytes(device: torch.device | str) -> int:
    """Memory that is free on a device [bytes]; on a CPU what is available within a container's limit."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free
