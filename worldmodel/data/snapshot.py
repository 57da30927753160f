"""One version of a store, opened and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from worldmodel.data import records
from worldmodel.data.index import EpisodeIndex, build_index
from worldmodel.data.schema import ArraySpec, StoreError, parse_header
from worldmodel.data.tables import EPISODES, STEPS, StorageOptions, lance_errors, open_table, table_uri

_ATTEMPTS = 3


@dataclass(frozen=True)
class Snapshot:
    """What a store held when it was opened; E committed episodes."""

    steps: lance.LanceDataset
    episodes: lance.LanceDataset
    spec: dict[str, ArraySpec]
    env: dict[str, Any]
    metadata: dict[str, Any]
    index: EpisodeIndex
    records: dict[str, Any]  # columns of episodes.lance in the order of index: (E, ...) arrays, or lists of E
    raw_records: pa.Table  # the same as Lance returned it


def load_snapshot(path: str, options: StorageOptions) -> Snapshot:
    """Open the newest version of a store and check that its tables agree.

    Raises:
        StoreError: not a store, another format version, a missing column or table, a truncated file, or
            tables that disagree.
    """
    for attempt in range(_ATTEMPTS):
        # Episodes before steps: whatever was listed when the former was opened has its steps in the latter.
        episodes = open_table(table_uri(path, EPISODES), options)
        steps = open_table(table_uri(path, STEPS), options)
        if steps is None:
            raise StoreError(f"{path} must be a trajectory store, got no {STEPS}")
        with lance_errors(f"{steps.uri} must be readable"):
            spec, env, metadata = parse_header(steps.schema, steps.uri)
        if episodes is None:
            raise StoreError(f"{path} must have the table {EPISODES}, got none")
        with lance_errors(f"{episodes.uri} must be readable"):
            missing = [name for name in records.RESERVED if name not in episodes.schema.names]
            if missing:
                raise StoreError(f"{episodes.uri} must have the column {missing[0]!r}, got none")
            checked = [field.name for field in episodes.schema.field("crc32").type]
            if checked != list(spec):
                raise StoreError(
                    f"{episodes.uri} must hold checksums of {', '.join(spec)}, got {', '.join(checked)}"
                )
            raw = episodes.to_table()
            columns = records.parse_records(raw)
        try:
            index = build_index(steps, columns["episode_index"], columns["length"])
        except StoreError:
            latest = open_table(episodes.uri, options)
            if attempt == _ATTEMPTS - 1 or latest is None or latest.version == episodes.version:
                raise
            continue  # another writer deleted episodes between the two openings
        order = np.argsort(columns["episode_index"], kind="stable")
        sorted_columns = {
            name: column[order] if isinstance(column, np.ndarray) else [column[at] for at in order]
            for name, column in columns.items()
        }
        return Snapshot(steps, episodes, spec, env, metadata, index, sorted_columns, raw)
    raise AssertionError("the last attempt returns or raises")
