"""``episodes.lance``: one row per episode, written after its steps; the row makes the episode exist."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from worldmodel.data.schema import ArraySpec, StoreError

RESERVED = ("episode_index", "length", "crc32", "seed", "split", "info", "record_crc32")


def base_schema(keys: Sequence[str]) -> pa.Schema:
    """Schema of ``episodes.lance`` before any factor of variation is known."""
    return pa.schema(
        [
            pa.field("episode_index", pa.int64()),
            pa.field("length", pa.int64()),
            pa.field("crc32", pa.struct([pa.field(key, pa.uint32()) for key in keys])),
            pa.field("seed", pa.int64()),
            pa.field("split", pa.string()),
            pa.field("info", pa.string()),
            pa.field("record_crc32", pa.uint32()),
        ]
    )


def factor_arrays(factors: Mapping[str, Any], num_episodes: int) -> dict[str, np.ndarray]:
    """Check factors of variation, each ``(E, ...)`` numbers or ``(E,)`` text.

    Raises:
        ValueError: a reserved name, another number of episodes, or an unsupported dtype.
    """
    arrays = {}
    for name, values in factors.items():
        array = np.asarray(values)
        if name in RESERVED:
            raise ValueError(f"a factor's name must not be one of {', '.join(RESERVED)}, got {name!r}")
        if array.shape[:1] != (num_episodes,):
            raise ValueError(f"factor {name!r} must have shape ({num_episodes}, ...), got {array.shape}")
        if array.dtype.kind == "U":
            if array.ndim != 1:
                raise ValueError(f"factor {name!r} must hold one text per episode, got shape {array.shape}")
        else:
            ArraySpec(str(array.dtype), array.shape[1:])  # refuses what a column cannot hold
        arrays[name] = np.ascontiguousarray(array)
    return arrays


def factor_fields(factors: Mapping[str, np.ndarray]) -> list[pa.Field]:
    """Arrow fields of the factor columns."""
    return [
        pa.field(
            name,
            pa.string()
            if array.dtype.kind == "U"
            else ArraySpec(str(array.dtype), array.shape[1:]).arrow_type,
        )
        for name, array in factors.items()
    ]


def record_batch(
    schema: pa.Schema,
    episode_index: np.ndarray,
    length: np.ndarray,
    crc32: Sequence[Mapping[str, int]],
    seed: np.ndarray,
    split: Sequence[str],
    info: Sequence[str],
    factors: Mapping[str, np.ndarray],
) -> pa.RecordBatch:
    """Assemble the rows of new episodes, each with a checksum over everything else in it."""
    columns: dict[str, Any] = {
        "episode_index": pa.array(episode_index, pa.int64()),
        "length": pa.array(length, pa.int64()),
        "crc32": pa.array(list(crc32), schema.field("crc32").type),
        "seed": pa.array(seed, pa.int64()),
        "split": pa.array(list(split), pa.string()),
        "info": pa.array(list(info), pa.string()),
    }
    for name, array in factors.items():
        is_text = array.dtype.kind == "U"
        columns[name] = (
            pa.array(array.tolist(), pa.string())
            if is_text
            else ArraySpec(str(array.dtype), array.shape[1:]).to_arrow(array)
        )
    rows = pa.table(columns)
    columns["record_crc32"] = pa.array(record_checksums(rows), pa.uint32())
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def info_texts(infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """Encode what an episode says about itself; ValueError where it is not JSON-able."""
    try:
        return [json.dumps(dict(info), allow_nan=False) for info in infos]
    except (TypeError, ValueError) as error:
        raise ValueError(f"info must be JSON-able, got {error}") from error


def record_checksums(table: pa.Table) -> list[int]:
    """CRC32 of each row of ``episodes.lance``, over its values as text and the columns' names and types."""
    names = sorted(name for name in table.schema.names if name != "record_crc32")
    columns = [_plain(table[name]) for name in names]
    header = zlib.crc32(repr([(name, str(table.schema.field(name).type)) for name in names]).encode())
    return [zlib.crc32(repr(row).encode(), header) for row in zip(*columns, strict=True)]


def parse_records(table: pa.Table) -> dict[str, Any]:
    """Columns of ``episodes.lance`` as numpy arrays ``(E, ...)``; ``info`` and ``crc32`` as lists."""
    parsed: dict[str, Any] = {}
    for name in table.schema.names:
        column = table[name].combine_chunks()
        if column.null_count:
            raise StoreError(
                f"episodes.lance must hold {name!r} for every episode, got {column.null_count} nulls"
            )
        if name == "crc32":
            parsed[name] = column.to_pylist()
        elif name == "info":
            parsed[name] = [json.loads(text) for text in column.to_pylist()]
        elif pa.types.is_string(column.type):
            parsed[name] = np.array(column.to_pylist(), dtype=np.str_)
        else:
            parsed[name] = _spec_of(column.type).to_numpy(column)
    return parsed


def _spec_of(kind: pa.DataType) -> ArraySpec:
    if isinstance(kind, pa.FixedShapeTensorType):
        return ArraySpec(str(np.dtype(kind.value_type.to_pandas_dtype())), tuple(kind.shape))
    return ArraySpec(str(np.dtype(kind.to_pandas_dtype())))


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Python values of a column; a tensor is flattened, a struct becomes a dict."""
    combined = column.combine_chunks()
    storage = combined.storage if isinstance(combined.type, pa.ExtensionType) else combined
    return list(storage.to_pylist())
