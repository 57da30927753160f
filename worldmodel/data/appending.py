"""Appending episodes: check them, claim their indices, write their steps, then list them.

The order makes every append atomic for readers: steps without a listing are orphans that reading ignores,
so a writer killed at any moment loses at most its own append. Indices are claimed by a compare-and-swap on
the configuration of ``episodes.lance`` (Lance's optimistic commit, which also holds on object stores), so any
number of writers may append at once and receive disjoint indices.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
import torch

from worldmodel.data import records
from worldmodel.data.schema import INDEX_COLUMNS, ArraySpec, StoreError
from worldmodel.data.tables import MAX_BATCH_ROWS, StorageOptions, lance_errors, open_table, write_table

Arrays = Mapping[str, np.ndarray | torch.Tensor]
_CLAIM_KEY = "worldmodel.claim"
_CLAIM_ATTEMPTS = 100


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one or more whole episodes."""

    arrays: dict[str, np.ndarray]  # key -> (rows, *shape), C-contiguous
    lengths: np.ndarray  # (episodes,) rows of each

    @property
    def checksums(self) -> list[dict[str, int]]:
        """CRC32 of each episode by key, over its values as C-ordered bytes."""
        ends = np.cumsum(self.lengths)
        return [
            {key: zlib.crc32(array[end - rows : end].data) for key, array in self.arrays.items()}
            for end, rows in zip(ends.tolist(), self.lengths.tolist(), strict=True)
        ]


def check_names(names: Sequence[str], what: str) -> None:
    """Raise ValueError unless every name can be a column."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in INDEX_COLUMNS:
            raise ValueError(
                f"a {what} must be an identifier other than {' and '.join(INDEX_COLUMNS)}, got {name!r}"
            )


def make_blocks(episodes: Arrays | Sequence[Arrays], spec: Mapping[str, ArraySpec]) -> list[Block]:
    """Turn ``(E, T+1, ...)`` arrays, or a sequence of episodes ``(T_e+1, ...)``, into checked rows.

    Where ``action_valid`` belongs to the spec but is not given, it is true but for an episode's last row.

    Raises:
        ValueError: a missing or unknown key, another dtype or shape than the spec, or no rows.
    """
    stacked = isinstance(episodes, Mapping)
    blocks = []
    for episode in [episodes] if isinstance(episodes, Mapping) else episodes:
        arrays = {key: _to_numpy(value, key) for key, value in episode.items()}
        lead = 2 if stacked else 1
        names = ", ".join(spec)
        if unknown := [key for key in arrays if key not in spec]:
            raise ValueError(f"an episode must hold only the keys {names}, got {', '.join(unknown)}")
        needed = [key for key in spec if key != "action_valid"] or list(spec)
        if missing := [key for key in needed if key not in arrays]:
            raise ValueError(f"an episode must hold the keys {names}, got no {', '.join(missing)}")
        first = next(iter(arrays))
        rows = arrays[first].shape[:lead]
        if len(rows) < lead or rows[-1] < 1:
            raise ValueError(
                f"{first} must start with {lead} axes of at least one row, got {arrays[first].shape}"
            )
        if "action_valid" in spec and "action_valid" not in arrays:
            arrays["action_valid"] = np.broadcast_to(np.arange(rows[-1]) < rows[-1] - 1, rows)
        for key, kind in spec.items():
            if str(arrays[key].dtype) != kind.dtype:
                raise ValueError(f"{key} must be {kind.dtype}, got {arrays[key].dtype}")
            if arrays[key].shape != (*rows, *kind.shape):
                raise ValueError(f"{key} must have shape {(*rows, *kind.shape)}, got {arrays[key].shape}")
        flat = {key: np.ascontiguousarray(arrays[key]).reshape(-1, *kind.shape) for key, kind in spec.items()}
        lengths = np.full(rows[0] if stacked else 1, rows[-1], dtype=np.int64)
        blocks.append(Block(flat, lengths))
    if not sum(len(block.lengths) for block in blocks):
        raise ValueError("episodes must hold at least one episode, got none")
    return blocks


def next_claim(uri: str, minimum: int, options: StorageOptions) -> int:
    """Return the first episode index that the next claim would get."""
    table = open_table(uri, options)
    if table is None:
        raise StoreError(f"{uri} must exist, got no table")
    return max(json.loads(table.config().get(_CLAIM_KEY, "{}")).get("next", 0), minimum)


def claim_indices(
    uri: str,
    count: int,
    factors: Mapping[str, np.ndarray],
    minimum: int,
    options: StorageOptions,
    expected_first: int | None = None,
) -> tuple[int, pa.Schema]:
    """Reserve ``count`` episode indices at or above ``minimum`` for this writer alone.

    The first claim of a store also fixes its factors of variation, which become columns. Where ``expected_first``
    is given, the claim fails unless it begins there, i.e. unless nobody else has claimed since.

    Returns:
        The first index, and the schema of ``episodes.lance`` to write with.

    Raises:
        StoreError: the factors differ from those of the store, or other writers keep winning.
    """
    fields = records.factor_fields(factors)
    described = {field.name: str(field.type) for field in fields}
    for _ in range(_CLAIM_ATTEMPTS):
        table = open_table(uri, options)
        if table is None:
            raise StoreError(f"{uri} must exist, got no table")
        claim = json.loads(table.config().get(_CLAIM_KEY, "{}"))
        if claim.get("factors", described) != described:
            raise StoreError(f"factors must be those of the store, {claim['factors']}, got {described}")
        first = max(claim.get("next", 0), minimum)
        if expected_first is not None and first != expected_first:
            raise StoreError(
                f"{uri} must have no other writer meanwhile, got one that appended episode {expected_first}"
            )
        missing = [field for field in fields if field.name not in table.schema.names]
        with lance_errors(f"{uri} must be writable (episodes committed before are intact)"):
            try:
                if not claim or claim["next"] < first + count:
                    update = {"next": first + count, "factors": described}
                    table.update_config({_CLAIM_KEY: json.dumps(update)})
                if missing:
                    table.add_columns(pa.schema(missing))
            except OSError as error:
                if "concurrent transaction" not in str(error):
                    raise
                continue
        return first, table.schema
    raise StoreError(
        f"{uri} must accept a claim of episode indices, got {_CLAIM_ATTEMPTS} conflicts in a row"
    )


def write_steps(
    steps: lance.LanceDataset, blocks: Sequence[Block], first_index: int, options: StorageOptions
) -> None:
    """Append the rows of all blocks as one version of ``steps.lance``."""
    batches = _step_batches(blocks, first_index, steps.schema)
    write_table(steps.uri, batches, steps.schema, "append", options)


def _step_batches(blocks: Sequence[Block], first_index: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for block in blocks:
        lengths = block.lengths
        episode = np.repeat(np.arange(first_index, first_index + len(lengths)), lengths)
        step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns = {"episode_index": episode, "step_index": step.astype(np.int32)} | block.arrays
        for start in range(0, len(step), MAX_BATCH_ROWS):
            batch = [
                ArraySpec(str(array.dtype), array.shape[1:]).to_arrow(array[start : start + MAX_BATCH_ROWS])
                for array in (columns[name] for name in schema.names)
            ]
            yield pa.record_batch(batch, schema=schema)
        first_index += len(lengths)


def _to_numpy(value: np.ndarray | torch.Tensor, key: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        try:
            return value.detach().cpu().numpy()
        except TypeError as error:
            raise ValueError(f"{key} must have a dtype that numpy knows, got {value.dtype}") from error
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{key} must be a numpy array or a tensor, got {type(value).__name__}")
    return value
