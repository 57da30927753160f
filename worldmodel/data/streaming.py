"""Windows of a store that is larger than memory, read from Lance behind a prefetching thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.reading import take_rows
from worldmodel.data.store import TrajectoryStore
from worldmodel.data.windows import Derived, Windows

_Request = tuple[int, int, int, int, int]  # step, batch_size, seed, rank, world_size


class StreamingWindows(Windows):
    """Windows read when they are asked for; the batches are bit for bit those of :class:`ResidentWindows`.

    Sequential calls of :meth:`batch_at` find their batch read ahead (and derived keys made) by a thread;
    :meth:`sample` and :meth:`gather` read in the calling thread. What fails in the thread is raised by the
    call that asks for that batch. The rows are those of the store's version at construction. Use it as a
    context manager, or call :meth:`close`.
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
        prefetch: int = 2,  # batches read ahead
    ) -> None:
        super().__init__(
            store, keys, length, episodes=episodes, stride=stride, device=device, derived=derived
        )
        if prefetch < 0:
            raise ValueError(f"prefetch must be at least 0, got {prefetch}")
        self._steps = store.steps  # this version, whatever the store does later
        self._specs = {key: store.key_spec(key) for key in self._loaded}
        self._first_row = store.index.first_row[self._positions]
        self._prefetch = prefetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worldmodel-prefetch")
        self._pending: dict[_Request, Future[dict[str, Tensor]]] = {}
        self._closed = False

    def batch_at(
        self, step: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, Tensor]:
        """Return batch number ``step`` of the random sequence ``seed``, and begin to read the next ones."""
        if self._closed:
            raise ValueError("windows must be open, got a call after close()")
        wanted = [(step + ahead, batch_size, seed, rank, world_size) for ahead in range(1 + self._prefetch)]
        for request in [request for request in self._pending if request not in wanted]:
            self._pending.pop(request).cancel()
        for request in wanted:
            if request not in self._pending:
                starts = self._starts_at(*request)
                self._pending[request] = self._thread.submit(self._finish, starts)
        return self._pending.pop(wanted[0]).result()

    def close(self) -> None:
        """Drop what is being read ahead and end the thread; may be called twice."""
        self._closed = True
        self._pending.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _gather(self, starts: Tensor) -> dict[str, Tensor]:
        offsets = self.offsets.numpy()
        flat = starts.numpy()
        episode = np.searchsorted(offsets, flat, side="right") - 1
        first = self._first_row[episode] + flat - offsets[episode]
        rows, where = np.unique(first[:, None] + np.arange(self.length), return_inverse=True)
        arrays = take_rows(self._steps, self._specs, rows)
        batch = {}
        for key, array in arrays.items():
            taken = torch.from_numpy(array[where.reshape(-1)])
            batch[key] = taken.unflatten(0, (len(starts), self.length)).to(self.device)
        return batch
