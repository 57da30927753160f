"""Per-key statistics of a store, in one pass and bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from worldmodel.data.store import TrajectoryStore

Statistics = dict[
    str, np.ndarray
]  # "mean", "std", "min", "max": float64, (C,) for images, else the step's shape


def compute_statistics(
    store: TrajectoryStore, keys: Sequence[str], positions: np.ndarray
) -> dict[str, Statistics]:
    """Compute mean, (population) std, min and max of keys over the episodes at ``positions`` of the index.

    Images ``(C, rows, cols)`` are reduced to ``(C,)``. Where the store has ``action_valid``, only valid
    actions count.
    Batches are merged by Chan's parallel formula, so large offsets do not cancel.

    Raises:
        ValueError: a key that holds no value to count.
    """
    if not keys:
        return {}
    needs_mask = "action" in keys and "action_valid" in store.spec
    columns = list(dict.fromkeys([*keys, "action_valid"])) if needs_mask else list(keys)
    moments: dict[str, _Moments] = {key: _Moments() for key in keys}
    for _, arrays in store.iterate(columns, positions):
        for key in keys:
            array = arrays[key]
            if key == "action" and needs_mask:
                array = array[arrays["action_valid"]]
            moments[key].add(array)
    for key in keys:
        if moments[key].count == 0:
            raise ValueError(f"{key} must hold at least one valid value, got none")
    return {key: moments[key].result() for key in keys}


class _Moments:
    """Running count, mean, sum of squared deviations, minimum and maximum over axis 0."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, array: np.ndarray) -> None:
        axes: tuple[int, ...]
        if array.ndim == 4:  # (rows, C, *image): pixels count as samples of their channel
            flat, axes = array.reshape(*array.shape[:2], -1), (0, 2)
        else:
            flat, axes = array, (0,)
        count = math.prod(flat.shape[axis] for axis in axes)
        if count == 0:
            return
        low, high = flat.min(axes).astype(np.float64), flat.max(axes).astype(np.float64)
        if flat.dtype == np.uint8:  # sums of integers are exact: no copy of the images in float64
            mean = flat.sum(axes, dtype=np.uint64) / count
            squares = np.square(flat, dtype=np.uint16).sum(axes, dtype=np.uint64)
            deviation = squares - count * mean**2
        else:
            wide = flat.astype(np.float64)
            mean = wide.mean(axes)
            deviation = np.square(wide - np.expand_dims(mean, axes)).sum(axes)
        if self.count == 0:
            self.count, self.mean, self.deviation, self.low, self.high = count, mean, deviation, low, high
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * count / total
        self.deviation = self.deviation + deviation + delta**2 * self.count * count / total
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count = total

    def result(self) -> Statistics:
        std = np.sqrt(np.maximum(self.deviation, 0.0) / self.count)
        return {
            "mean": np.asarray(self.mean, np.float64),
            "std": np.asarray(std, np.float64),
            "min": np.asarray(self.low, np.float64),
            "max": np.asarray(self.high, np.float64),
        }
