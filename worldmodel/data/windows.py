"""Windows of T consecutive frames of one episode, gathered from tensors that hold the whole data.

In a batch ``(B, T, ...)``, ``action[:, t]`` leads from frame ``t`` to frame ``t + 1``. A window lies wholly
inside one episode; splits are sets of episodes, so no window straddles a split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.store import TrajectoryStore

Derived = Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]
"""key -> (source key, function from the source's rows ``(rows, ...)`` to the key's rows ``(rows, ...)``)."""


class Windows(ABC):
    """Random windows of a store, the same for every way of holding the data.

    Attributes:
        length: T, frames per window.
        num_windows: how many windows there are.
        starts: ``(num_windows,)`` int64 first row of every window, among the rows of the chosen episodes.
        offsets: ``(E+1,)`` int64 first row of each chosen episode, and the number of rows.
        device: where batches are.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        keys: Sequence[str],
        length: int,
        *,
        episodes: Sequence[int] | np.ndarray | None = None,
        stride: int = 1,
        device: torch.device | str = "cpu",
        derived: Derived | None = None,
    ) -> None:
        if length < 1 or stride < 1:
            raise ValueError(f"length and stride must be at least 1, got {length} and {stride}")
        self.length = length
        self.device = torch.device(device)
        self._derived = dict(derived or {})
        self._keys = [key for key in dict.fromkeys(keys) if key not in self._derived]
        self._loaded = stored_keys(keys, self._derived)
        if not self._loaded:
            raise ValueError("keys must name at least one key, got none")
        for key in self._loaded:
            store.key_spec(key)
        self._positions = np.sort(store.index.positions(None if episodes is None else np.asarray(episodes)))
        lengths = store.index.length[self._positions]
        counts = np.maximum(0, (lengths - length) // stride + 1)
        if not counts.sum():
            longest = lengths.max(initial=0)
            raise ValueError(f"length must be at most the longest episode, {longest} rows, got {length}")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self.starts = torch.from_numpy(np.repeat(offsets[:-1], counts) + stride * within)
        self.offsets = torch.from_numpy(offsets)

    @property
    def num_windows(self) -> int:
        """How many windows there are."""
        return len(self.starts)

    def sample(self, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw windows uniformly and independently: key -> ``(batch_size, T, ...)``, dtypes as stored."""
        return self._finish(self._draw(batch_size, generator))

    def gather(self, starts: Tensor) -> dict[str, Tensor]:
        """Return the windows that begin at rows ``starts (B,)``: key -> ``(B, T, ...)``.

        Raises:
            ValueError: a window would leave its episode.
        """
        starts = starts.detach().to("cpu", torch.int64)
        ends = self.offsets[
            torch.searchsorted(self.offsets, starts, right=True).clamp(max=len(self.offsets) - 1)
        ]
        outside = (starts < 0) | (starts + self.length > ends)
        if outside.any():
            raise ValueError(
                f"a window of {self.length} must lie inside one episode, got start {starts[outside][0]}"
            )
        return self._finish(starts)

    def batch_at(
        self, step: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, Tensor]:
        """Return batch number ``step`` of the random sequence ``seed``, a pure function of its arguments.

        Args:
            step: counts from 0.
            batch_size: of the joint batch over all ranks.
            seed: at least 0.
            rank: which contiguous slice of the joint batch to return.
            world_size: how many equal slices there are.

        Returns:
            key -> ``(batch_size / world_size, T, ...)``.
        """
        return self._finish(self._starts_at(step, batch_size, seed, rank, world_size))

    @abstractmethod
    def close(self) -> None:
        """Release what the windows hold besides tensors; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        drawn = torch.randint(self.num_windows, (batch_size,), generator=generator, device=generator.device)
        return self.starts[drawn.cpu()]

    def _starts_at(self, step: int, batch_size: int, seed: int, rank: int, world_size: int) -> Tensor:
        if step < 0 or seed < 0:
            raise ValueError(f"step and seed must be at least 0, got {step} and {seed}")
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                "batch_size must be a multiple of world_size and rank below world_size, "
                f"got batch_size {batch_size}, rank {rank} and world_size {world_size}"
            )
        mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
        starts = self._draw(batch_size, torch.Generator().manual_seed(mixed))
        share = batch_size // world_size
        return starts[rank * share : (rank + 1) * share]

    def _finish(self, starts: Tensor) -> dict[str, Tensor]:
        batch = self._gather(starts)
        out = {key: batch[key] for key in self._keys}
        for key, (source, function) in self._derived.items():
            rows = function(batch[source].flatten(0, 1))
            out[key] = rows.unflatten(0, (len(starts), self.length))
        return out

    @abstractmethod
    def _gather(self, starts: Tensor) -> dict[str, Tensor]:
        """Return loaded key -> ``(B, T, ...)`` on the device, for admissible ``starts (B,)`` on the CPU."""


class ResidentWindows(Windows):
    """Windows gathered from tensors on the device; loading takes little more memory than they do.

    Batches are fresh tensors that the caller may keep.

    Attributes:
        arrays: key -> ``(rows, ...)`` the rows of the chosen episodes, ascending by episode index.

    Raises:
        ValueError: the data needs more than ``max_bytes``.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        keys: Sequence[str],
        length: int,
        *,
        episodes: Sequence[int] | np.ndarray | None = None,
        stride: int = 1,
        device: torch.device | str = "cpu",
        max_bytes: int | None = None,
        derived: Derived | None = None,
    ) -> None:
        super().__init__(
            store, keys, length, episodes=episodes, stride=stride, device=device, derived=derived
        )
        rows = int(self.offsets[-1])
        needed = rows * sum(store.key_spec(key).num_bytes for key in self._loaded)
        if max_bytes is not None and needed > max_bytes:
            raise ValueError(f"max_bytes must be at least the {needed} bytes of the data, got {max_bytes}")
        self.arrays = {
            key: _empty((rows, *spec.shape), getattr(torch, spec.dtype), self.device)
            for key, spec in ((key, store.key_spec(key)) for key in self._loaded)
        }
        for target, arrays in store.iterate(self._loaded, self._positions):
            for key, array in arrays.items():
                if self.device.type == "cpu":
                    self.arrays[key].numpy()[target] = array
                else:
                    self.arrays[key][target] = torch.from_numpy(array.copy())
        self._views = {key: _window_view(array, length) for key, array in self.arrays.items()}

    def close(self) -> None:
        """Do nothing: there are only tensors."""

    def _gather(self, starts: Tensor) -> dict[str, Tensor]:
        starts = starts.to(self.device)
        batch = {}
        for key, array in self.arrays.items():
            view = self._views[key]
            taken = _empty((len(starts), view.shape[1]), view.dtype, self.device)
            torch.index_select(view, 0, starts, out=taken)
            batch[key] = taken.view(array.dtype).view(len(starts), self.length, *array.shape[1:])
        return batch


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate a tensor; on a CPU through numpy, whose huge pages make filling it a fifth faster."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))


def _window_view(array: Tensor, length: int) -> Tensor:
    """View ``(rows, ...)`` as all its windows ``(rows - T + 1, words)``, in the widest integers that fit.

    Copying few wide words is what makes ``index_select`` as fast as a copy, and it serves every dtype alike.
    """
    rows = array.reshape(len(array), -1)
    for word in (torch.int64, torch.int32, torch.int16, torch.uint8):
        if rows.shape[1] * rows.element_size() % word.itemsize == 0:
            rows = rows.view(torch.uint8).view(word)
            break
    return rows.as_strided((len(rows) - length + 1, length * rows.shape[1]), (rows.shape[1], 1))


def stored_keys(keys: Sequence[str], derived: Derived) -> list[str]:
    """Columns that have to be read to deliver ``keys`` and ``derived``."""
    sources = [source for source, _ in derived.values()]
    return list(dict.fromkeys([*(key for key in keys if key not in derived), *sources]))
