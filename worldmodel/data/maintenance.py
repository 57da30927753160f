"""Deleting, compacting and repairing: what rewrites a store without adding to it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import lance
import numpy as np

from worldmodel.data.schema import StoreError
from worldmodel.data.tables import (
    EPISODES,
    MAX_BATCH_ROWS,
    STEPS,
    StorageOptions,
    lance_errors,
    open_table,
    table_uri,
)

_RANGES_PER_DELETE = 256
_RULE = "{} must be writable (other committed episodes are intact)"


def delete_rows(path: str, table: str, indices: np.ndarray, options: StorageOptions) -> int:
    """Delete the rows of ascending episode indices from one table; returns how many there were."""
    if not len(indices):
        return 0
    dataset = _open(path, table, options)
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)  # one range per run of neighbours
    with lance_errors(_RULE.format(dataset.uri)):
        before = dataset.count_rows()
        for start in range(0, len(runs), _RANGES_PER_DELETE):
            ranges = [(run[0], run[-1]) for run in runs[start : start + _RANGES_PER_DELETE]]
            dataset.delete(" OR ".join(f"episode_index BETWEEN {low} AND {high}" for low, high in ranges))
        return before - _open(path, table, options).count_rows()


def compact_tables(path: str, options: StorageOptions) -> None:
    """Merge small fragments and drop deleted rows in both tables, keeping the order of the rows."""
    for table in (EPISODES, STEPS):
        dataset = _open(path, table, options)
        with lance_errors(_RULE.format(dataset.uri)):
            dataset.optimize.compact_files(materialize_deletions_threshold=0.0, batch_size=MAX_BATCH_ROWS)


def clean_up(path: str, older_than: timedelta, options: StorageOptions) -> None:
    """Remove versions older than given, and files that no version uses."""
    for table in (EPISODES, STEPS):
        dataset = _open(path, table, options)
        with lance_errors(_RULE.format(dataset.uri)):
            dataset.cleanup_old_versions(older_than, delete_unverified=not older_than)


def episodes_with_rows_before(steps: lance.LanceDataset, age: timedelta) -> np.ndarray:
    """Episode indices ``(e,)`` that had rows so long ago; none where no version is that old."""
    with lance_errors(f"{steps.uri} must be readable"):
        moment = (datetime.now() - age).timestamp()
        entries: list[dict[str, Any]] = steps.versions()  # type: ignore[assignment]
        versions = [entry["version"] for entry in entries if entry["timestamp"].timestamp() <= moment]
        if not versions:
            return np.empty(0, np.int64)
        rows = steps.checkout_version(max(versions)).to_table(columns=["episode_index"])
        return np.unique(rows["episode_index"].to_numpy())


def _open(path: str, table: str, options: StorageOptions) -> lance.LanceDataset:
    dataset = open_table(table_uri(path, table), options)
    if dataset is None:
        raise StoreError(f"{path} must have the table {table}, got none")
    return dataset
