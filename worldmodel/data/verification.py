"""Verification: compare what lies on disk with the checksums recorded when it was written.

Lance returns flipped bytes silently, so this is what detects them; truncated and missing
files it reports itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lance
import numpy as np

from worldmodel.data import records
from worldmodel.data.schema import ArraySpec, StoreError
from worldmodel.data.snapshot import Snapshot
from worldmodel.data.tables import EPISODES, lance_errors, scan


@dataclass(frozen=True)
class Damage:
    """One episode whose values of one column are not those that were appended."""

    episode_index: int
    column: str
    file: str  # data file(s) below the store that hold these values
    reason: str

    def __str__(self) -> str:
        return f"episode {self.episode_index}, column {self.column!r}, file {self.file}: {self.reason}"


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of a verification."""

    num_episodes: int
    num_bytes: int  # of values compared, uncompressed [bytes]
    damages: tuple[Damage, ...]

    @property
    def is_intact(self) -> bool:
        """Whether every value is the one that was appended."""
        return not self.damages

    def raise_if_damaged(self) -> None:
        """Raise a StoreError that names the first damage."""
        if self.damages:
            more = f" (and {len(self.damages) - 1} more)" if len(self.damages) > 1 else ""
            raise StoreError(f"a store must match its checksums, got damage in {self.damages[0]}{more}")


def verify_columns(snapshot: Snapshot, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Check every committed episode, column by column, and the records of ``episodes.lance`` themselves.

    Args:
        snapshot: the store's version to check.
        progress: called with (bytes done, bytes in all).
    """
    steps, specs, index, raw = snapshot.steps, snapshot.spec, snapshot.index, snapshot.raw_records
    with lance_errors(f"{snapshot.episodes.uri} must be readable"):
        snapshot.episodes.validate()  # a listing whose manifest hides rows
    damages = []
    stored = raw["record_crc32"].to_pylist()
    for episode, expected, found in zip(
        raw["episode_index"].to_pylist(), stored, records.record_checksums(raw), strict=True
    ):
        if expected != found:
            damages.append(Damage(episode, "record", EPISODES, "its record does not match its checksum"))
    fragments = steps.get_fragments()
    with lance_errors(f"{steps.uri} must be readable"):
        rows = [fragment.count_rows() for fragment in fragments]
    row_bytes = sum(spec.num_bytes for spec in specs.values())
    total, done = row_bytes * sum(rows), 0
    ends = np.cumsum(rows)
    by_row = np.argsort(index.first_row)
    first, last = index.first_row[by_row], (index.first_row + index.length)[by_row]
    for key, spec in specs.items():
        checksum = np.zeros(len(first), np.int64)
        failure: dict[int, str] = {}  # fragment -> why it cannot be read
        for number, fragment in enumerate(fragments):
            row = int(ends[number]) - rows[number]
            try:
                for array in _arrays(steps, fragment, key, spec):
                    _update(checksum, array, row, first, last)
                    row += len(array)
                    done += array.nbytes
                    if progress is not None:
                        progress(done, total)
                if row != ends[number]:
                    failure[number] = f"it holds {row - ends[number] + rows[number]} of {rows[number]} rows"
            except StoreError as error:
                failure[number] = str(error)
        for at, position in enumerate(by_row.tolist()):
            low, high = np.searchsorted(ends, [first[at], last[at] - 1], side="right")
            reasons = [failure[number] for number in range(low, high + 1) if number in failure]
            if reasons or checksum[at] != snapshot.records["crc32"][position][key]:
                files = {_file(steps, fragments[number], key) for number in range(low, high + 1)}
                reason = reasons[0] if reasons else "its values do not match their checksum"
                damages.append(
                    Damage(int(index.episode_index[position]), key, ", ".join(sorted(files)), reason)
                )
    return VerifyReport(len(first), int(index.length.sum()) * row_bytes, tuple(damages))


def _arrays(
    steps: lance.LanceDataset, fragment: lance.LanceFragment, key: str, spec: ArraySpec
) -> Iterator[np.ndarray]:
    with lance_errors("it must be readable"):
        for batch in scan(steps, [key], spec.num_bytes, fragments=[fragment]):
            yield np.ascontiguousarray(spec.to_numpy(batch[key]))


def _update(checksum: np.ndarray, array: np.ndarray, row: int, first: np.ndarray, last: np.ndarray) -> None:
    """Continue the checksums of the episodes that have rows in ``array``, which starts at ``row``."""
    end = row + len(array)
    low, high = np.searchsorted(last, row, side="right"), np.searchsorted(first, end, side="left")
    for at in range(int(low), int(high)):
        begin, stop = max(int(first[at]), row) - row, min(int(last[at]), end) - row
        checksum[at] = zlib.crc32(array[begin:stop].data, int(checksum[at]))


def _file(steps: lance.LanceDataset, fragment: lance.LanceFragment, key: str) -> str:
    """Data file of a fragment that holds a column, relative to the store."""
    field = next(entry for entry in steps.lance_schema.fields() if entry.name() == key)
    files = [file.path for file in fragment.data_files() if field.id() in file.fields]
    return "/".join(["steps.lance", "data", *files[:1]])
