"""Where the committed episodes lie among the rows of ``steps.lance``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np

from worldmodel.data.schema import INDEX_COLUMNS, StoreError
from worldmodel.data.tables import lance_errors


@dataclass(frozen=True)
class EpisodeIndex:
    """Committed episodes in ascending order of ``episode_index``; E of them."""

    episode_index: np.ndarray  # (E,) int64
    length: np.ndarray  # (E,) int64 rows, one more than the episode has actions
    first_row: np.ndarray  # (E,) int64 position in steps.lance
    orphans: np.ndarray  # (O,) int64 episode indices whose writer died before it listed them
    next_index: int  # smallest index above everything in both tables

    def positions(self, episodes: Sequence[int] | np.ndarray | None) -> np.ndarray:
        """Positions ``(e,)`` of episode indices ``(e,)`` in this index, in the order asked; None is all.

        Raises:
            ValueError: an index is not committed, or is asked for twice.
        """
        if episodes is None:
            return np.arange(len(self.episode_index))
        wanted = np.asarray(episodes)
        if wanted.size and wanted.dtype.kind not in "iu":
            raise ValueError(f"episodes must be episode indices (integers), got {wanted.dtype}")
        wanted = wanted.astype(np.int64).reshape(-1)
        found = np.searchsorted(self.episode_index, wanted)
        known = found < len(self.episode_index)
        known[known] = self.episode_index[found[known]] == wanted[known]
        if not known.all():
            raise ValueError(f"episodes must be committed in the store, got {wanted[~known][0]}")
        if len(np.unique(wanted)) != len(wanted):
            raise ValueError("episodes must be distinct, got one twice")
        return found


def build_index(steps: lance.LanceDataset, episode_index: np.ndarray, length: np.ndarray) -> EpisodeIndex:
    """Derive offsets from ``step_index == 0`` and check that both tables agree.

    Args:
        steps: the open ``steps.lance``.
        episode_index: ``(E,)`` int64 as ``episodes.lance`` lists them.
        length: ``(E,)`` int64 rows of each, listed likewise.

    Raises:
        StoreError: rows that do not count 0, 1, 2, ... within an episode, or disagree with the listing.
    """
    with lance_errors(f"{steps.uri} must be readable"):
        table = steps.to_table(columns=list(INDEX_COLUMNS))
        row_episode = table["episode_index"].to_numpy()
        row_step = table["step_index"].to_numpy()
    starts = np.flatnonzero(row_step == 0)
    ends = np.append(starts[1:], len(row_step))
    lengths = ends - starts
    counted = len(row_step) == 0 or (
        len(starts) > 0
        and starts[0] == 0
        and np.array_equal(row_step, np.arange(len(row_step)) - np.repeat(starts, lengths))
        and np.array_equal(row_episode, np.repeat(row_episode[starts], lengths))
    )
    if not counted:
        raise StoreError(
            f"rows of {steps.uri} must count 0, 1, 2, ... within each episode, got another order"
        )
    order = np.argsort(episode_index, kind="stable")
    episode_index, length = episode_index[order], length[order]
    run_order = np.argsort(row_episode[starts], kind="stable")
    starts, lengths = starts[run_order], lengths[run_order]
    run_episode = row_episode[starts]
    listed = np.isin(run_episode, episode_index)
    if not np.array_equal(run_episode[listed], episode_index):
        wrong = np.setdiff1d(episode_index, run_episode[listed])
        which = f"no rows for episode {wrong[0]}" if len(wrong) else "an episode twice"
        raise StoreError(f"{steps.uri} must hold each listed episode once, got {which}")
    if (differ := np.flatnonzero(lengths[listed] != length)).size:
        at = differ[0]
        raise StoreError(
            f"episode {episode_index[at]} of {steps.uri} must have the listed {length[at]} rows, "
            f"got {lengths[listed][at]}"
        )
    highest = max(run_episode.max(initial=-1), episode_index.max(initial=-1))
    return EpisodeIndex(
        episode_index,
        length,
        starts[listed].astype(np.int64),
        np.unique(run_episode[~listed]),
        int(highest) + 1,
    )
