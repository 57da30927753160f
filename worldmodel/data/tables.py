"""Access to the two Lance tables of a store: locations, opening, committing, and errors as one sentence.

Whatever Lance raises for a damaged file or a full disk (``OSError``, ``ValueError``, Arrow errors, a Rust
panic) becomes a :class:`StoreError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import lance
import pyarrow as pa

from worldmodel.data.schema import StoreError

STEPS, EPISODES = "steps.lance", "episodes.lance"
DATA_STORAGE_VERSION: Literal["2.1"] = "2.1"
MAX_BATCH_ROWS = 1024  # larger written batches slow random access down
_READ_BATCH_BYTES = 4 << 20
_MAX_READ_ROWS = 16384
_READ_AHEAD_BYTES = 64 << 20

StorageOptions = Mapping[str, str] | None


def table_uri(store: str | Path, table: str) -> str:
    """Location of one table of a store; ``store`` is a local path or a URI such as ``s3://bucket/name``."""
    return f"{str(store).rstrip('/')}/{table}"


def open_table(uri: str, options: StorageOptions) -> lance.LanceDataset | None:
    """Open the newest version of a table, or return None where there is none."""
    with lance_errors(f"{uri} must be readable"):
        try:
            return lance.dataset(uri, storage_options=dict(options) if options else None)
        except ValueError as error:
            if "not found" in str(error):
                return None
            raise


def write_table(
    uri: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, mode: str, options: StorageOptions
) -> None:
    """Write record batches (at most ``MAX_BATCH_ROWS`` rows each) as one version of a table."""
    with lance_errors(f"{uri} must be writable (episodes committed before are intact)"):
        lance.write_dataset(
            pa.RecordBatchReader.from_batches(schema, batches),
            uri,
            mode=mode,
            data_storage_version=DATA_STORAGE_VERSION,
            storage_options=dict(options) if options else None,
        )


def scan(
    table: lance.LanceDataset,
    columns: list[str],
    row_bytes: int,
    *,
    first: int = 0,
    rows: int | None = None,
    fragments: list[lance.LanceFragment] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Iterate over ``rows`` consecutive rows from ``first``, in order, in batches of a few MB.

    Args:
        table: an open table.
        columns: which columns.
        row_bytes: size of these columns in one row [bytes].
        first: the first row.
        rows: how many rows; None is all.
        fragments: count rows within these fragments only.
    """
    # A scan of more than Lance's I/O buffer may wait for room in it forever, and a buffer that holds everything takes any
    # memory. So one scan asks for no more than a small buffer holds.
    end = (
        first + rows
        if rows is not None
        else sum(part.count_rows() for part in fragments or table.get_fragments())
    )
    piece = max(_READ_AHEAD_BYTES // max(row_bytes, 1), 1)
    for start in range(first, end, piece):
        yield from table.scanner(
            columns=columns,
            offset=start or None,
            limit=min(piece, end - start),
            fragments=fragments,
            batch_size=min(max(_READ_BATCH_BYTES // max(row_bytes, 1), 16), _MAX_READ_ROWS),
            batch_readahead=4,
            scan_in_order=True,
        ).to_batches()


@contextmanager
def lance_errors(rule: str) -> Iterator[None]:
    """Raise what Lance, Arrow or the file system raise inside as ``StoreError("<rule>, got <reason>")``."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, pa.ArrowException) as error:
        raise StoreError(f"{rule}, got {_reason(error)}") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # a Rust panic: derives from BaseException
            raise StoreError(f"{rule}, got {_reason(error)}") from error
        raise


def _reason(error: BaseException) -> str:
    """First line of a message, without the positions in Lance's own source that it ends with."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r",? ?\S*\.rs:\d+(:\d+)?", "", lines[0]).strip(" ,") or type(error).__name__
