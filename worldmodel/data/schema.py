"""What a trajectory store records per step, and how it is written as Arrow columns and schema metadata."""

from __future__ import annotations

import json
import math
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

FORMAT_VERSION = 1
INDEX_COLUMNS = ("episode_index", "step_index")
DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)
_METADATA_KEY = b"worldmodel"
_CHECKSUM_KEY = b"worldmodel.crc32"


class StoreError(ValueError):
    """A trajectory store that cannot be opened, read or written as asked; the message is one sentence."""


@dataclass(frozen=True)
class ArraySpec:
    """One array per step: a key of the store.

    Raises:
        ValueError: the dtype is not one of ``DTYPES`` or a dimension is smaller than one.
    """

    dtype: str  # a numpy name, e.g. "uint8"
    shape: tuple[int, ...] = ()  # of one step: (C, rows, cols) for images, () for scalars

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", str(self.dtype))
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape must hold dimensions of at least 1, got {self.shape}")

    @property
    def size(self) -> int:
        """Elements in one step."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes in one step."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column: a plain scalar, or a fixed-shape tensor."""
        scalar = pa.from_numpy_dtype(np.dtype(self.dtype))
        return pa.fixed_shape_tensor(scalar, self.shape) if self.shape else scalar

    def to_arrow(self, array: np.ndarray) -> pa.Array:
        """Wrap ``array (rows, *shape)``, C-contiguous, as an Arrow array; zero-copy except for booleans."""
        values = pa.array(array.reshape(-1))
        if not self.shape:
            return values
        return pa.ExtensionArray.from_storage(
            self.arrow_type, pa.FixedSizeListArray.from_arrays(values, self.size)
        )

    def to_numpy(self, array: pa.Array) -> np.ndarray:
        """View one Arrow array (not chunked) as ``(rows, *shape)``; zero-copy except for booleans."""
        if array.null_count:
            raise StoreError(f"a column must hold a value in every row, got {array.null_count} nulls")
        values = array.storage.flatten() if self.shape else array
        return values.to_numpy(zero_copy_only=False).reshape(len(array), *self.shape)


@dataclass(frozen=True)
class EnvSpec:
    """The environment that a store was recorded in: enough to train on it, and to build it again where it is registered.

    A store can be created for any JSON-able mapping with an ``"id"``; training asks for what this class writes.

    Raises:
        ValueError: bounds of unequal length, not finite or out of order, or a norm that is not positive or whose box
            excludes zero.
    """

    id: str  # what gymnasium.make takes, or a name of your own
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    observation: Mapping[str, Sequence[int]] = field(default_factory=dict)  # shape of one step, per key
    action_low: Sequence[float] = ()  # (A,) [action units]
    action_high: Sequence[float] = ()  # (A,) [action units]
    fps: float | None = None  # steps per second of simulated time
    max_action_norm: float | None = None  # Euclidean, of boxes around zero [action units]

    def __post_init__(self) -> None:
        low, high, norm = list(self.action_low), list(self.action_high), self.max_action_norm
        pairs = list(zip(low, high, strict=False))
        if len(low) != len(high) or not all(-math.inf < a < b < math.inf for a, b in pairs):
            raise ValueError(
                f"action_low must be below action_high, one finite number per action, got {low} and {high}"
            )
        if norm is not None and not (0 < norm < math.inf and all(a <= 0 <= b for a, b in pairs)):
            raise ValueError(
                f"max_action_norm must be > 0 and the bounds around 0, got {norm} with {low} and {high}"
            )

    def to_mapping(self) -> dict[str, Any]:
        """Return the JSON-able mapping that the store records, with ``"action"`` and ``"fps"`` where they are known."""
        mapping: dict[str, Any] = {
            "id": self.id,
            "kwargs": dict(self.kwargs),
            "observation": {key: list(shape) for key, shape in self.observation.items()},
        }
        if len(self.action_low):
            mapping["action"] = {
                "low": [float(bound) for bound in self.action_low],
                "high": [float(bound) for bound in self.action_high],
                "max_norm": None if self.max_action_norm is None else float(self.max_action_norm),
            }
        return mapping if self.fps is None else {**mapping, "fps": self.fps}


def steps_schema(
    spec: Mapping[str, ArraySpec], env: Mapping[str, Any], metadata: Mapping[str, Any]
) -> pa.Schema:
    """Build the Arrow schema of ``steps.lance``: index columns, one column per key, checksummed metadata."""
    fields = [pa.field("episode_index", pa.int64()), pa.field("step_index", pa.int32())]
    fields += [pa.field(key, array.arrow_type) for key, array in spec.items()]
    header = {
        "format": FORMAT_VERSION,
        "spec": {key: {"dtype": array.dtype, "shape": list(array.shape)} for key, array in spec.items()},
        "env": dict(env),
        "metadata": dict(metadata),
        "versions": software_versions(),
    }
    try:
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"env and metadata must be JSON-able, got {error}") from error
    return pa.schema(fields, metadata={_METADATA_KEY: text, _CHECKSUM_KEY: str(zlib.crc32(text)).encode()})


def parse_header(schema: pa.Schema, uri: str) -> tuple[dict[str, ArraySpec], dict[str, Any], dict[str, Any]]:
    """Read ``(spec, env, metadata)`` back from the schema of ``steps.lance``, and check its columns.

    ``metadata`` carries the recorded software versions under ``"versions"``.

    Raises:
        StoreError: no header, a damaged header, another format version, a missing or altered column.
    """
    entries = schema.metadata or {}
    if _METADATA_KEY not in entries:
        raise StoreError(f"{uri} must be a trajectory store, got a Lance table without its header")
    text = entries[_METADATA_KEY]
    if entries.get(_CHECKSUM_KEY) != str(zlib.crc32(text)).encode():
        raise StoreError(f"the header of {uri} must match its checksum, got a damaged one")
    header = json.loads(text)
    if header.get("format") != FORMAT_VERSION:
        raise StoreError(f"{uri} must have format version {FORMAT_VERSION}, got {header.get('format')!r}")
    spec = {key: ArraySpec(entry["dtype"], tuple(entry["shape"])) for key, entry in header["spec"].items()}
    expected = {"episode_index": pa.int64(), "step_index": pa.int32()}
    expected |= {key: array.arrow_type for key, array in spec.items()}
    for key, kind in expected.items():
        if key not in schema.names:
            raise StoreError(f"{uri} must have the column {key!r}, got {', '.join(schema.names)}")
        if schema.field(key).type != kind:
            raise StoreError(f"column {key!r} of {uri} must be {kind}, got {schema.field(key).type}")
    return spec, header["env"], header["metadata"] | {"versions": header["versions"]}


def software_versions() -> dict[str, str]:
    """Versions of what wrote the store."""
    packages = {name: version(name) for name in ("pylance", "pyarrow", "numpy")}
    return {"python": platform.python_version()} | packages
