"""Reading whole episodes from ``steps.lance`` in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import lance
import numpy as np

from worldmodel.data.index import EpisodeIndex
from worldmodel.data.schema import ArraySpec
from worldmodel.data.tables import lance_errors, scan

_GAP_BYTES = 4 << 20  # reading through a smaller gap is cheaper than a second scan


def iterate_rows(
    steps: lance.LanceDataset, specs: Mapping[str, ArraySpec], index: EpisodeIndex, positions: np.ndarray
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Yield the rows of the episodes at ``positions`` of ``index``, each with where it belongs in the result.

    The result is the concatenation of the episodes in the order of ``positions``; pieces come in storage
    order.
    """
    lengths = index.length[positions]
    targets = np.cumsum(lengths) - lengths
    order = np.argsort(index.first_row[positions])
    first, last = index.first_row[positions][order], (index.first_row + index.length)[positions][order]
    target = targets[order]
    row_bytes = sum(spec.num_bytes for spec in specs.values())
    gap = _GAP_BYTES // max(1, row_bytes)
    breaks = np.flatnonzero(first[1:] - last[:-1] > gap) + 1
    with lance_errors(f"{steps.uri} must be readable"):
        for run in np.split(np.arange(len(order)), breaks) if len(order) else []:
            row = int(first[run[0]])
            episode = int(run[0])
            rows = int(last[run[-1]]) - row
            for batch in scan(steps, list(specs), row_bytes, first=row, rows=rows):
                arrays = {key: spec.to_numpy(batch[key]) for key, spec in specs.items()}
                end = row + batch.num_rows
                while episode <= run[-1] and first[episode] < end:
                    begin, stop = max(int(first[episode]), row), min(int(last[episode]), end)
                    where = int(target[episode]) + begin - int(first[episode])
                    yield (
                        slice(where, where + stop - begin),
                        {key: array[begin - row : stop - row] for key, array in arrays.items()},
                    )
                    if stop < last[episode]:
                        break
                    episode += 1
                row = end


def take_rows(
    steps: lance.LanceDataset, specs: Mapping[str, ArraySpec], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Read rows by ascending, distinct position: key -> ``(len(rows), ...)``."""
    with lance_errors(f"{steps.uri} must be readable"):
        table = steps.take(rows, columns=list(specs)).combine_chunks()
        return {key: spec.to_numpy(table[key].chunk(0)) for key, spec in specs.items()}
