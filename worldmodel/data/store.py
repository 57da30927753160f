"""The trajectory store: episodes of equal keys in two Lance tables.

``<store>/steps.lance`` has one row per step, ``<store>/episodes.lance`` one row per episode, written after
its steps. An episode of T actions has T + 1 rows: the last keeps the final observation, and its action is
marked by ``action_valid = false``. An episode exists only if ``episodes.lance`` lists it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np

from worldmodel.data import maintenance, records
from worldmodel.data.appending import Arrays, check_names, claim_indices, make_blocks, next_claim, write_steps
from worldmodel.data.index import EpisodeIndex
from worldmodel.data.reading import iterate_rows
from worldmodel.data.schema import ArraySpec, EnvSpec, StoreError, steps_schema
from worldmodel.data.snapshot import Snapshot, load_snapshot
from worldmodel.data.splits import split_groups
from worldmodel.data.statistics import Statistics, compute_statistics
from worldmodel.data.tables import EPISODES, STEPS, StorageOptions, open_table, table_uri, write_table
from worldmodel.data.verification import VerifyReport, verify_columns

Episodes = Sequence[int] | np.ndarray | None
"""Episode indices ``(e,)``; None is all committed episodes, ascending."""


class TrajectoryStore:
    """Read, append, verify and delete episodes; made by :meth:`create` or :meth:`open`.

    An instance reads one version of the store: the newest at the time of :meth:`open`, :meth:`refresh` or its
    own last write; other writers do not disturb it. Methods name episodes by ``episode_index``, which stays
    the same for the life of an episode; indices may have gaps (deletions, writers that died).

    Lance runs threads, so a process that has opened a store must not fork: use threads, or spawned processes.
    A pickled store opens itself again where it is unpickled; a forked one refuses to work.
    """

    def __init__(self, path: str | Path, storage_options: StorageOptions = None) -> None:
        self.path = str(path)
        self._options = storage_options
        self._process = os.getpid()
        self.refresh()

    @classmethod
    def create(
        cls,
        path: str | Path,
        spec: Mapping[str, ArraySpec],
        *,
        env: Mapping[str, Any] | EnvSpec,
        metadata: Mapping[str, Any] | None = None,
        storage_options: StorageOptions = None,
    ) -> TrajectoryStore:
        """Create an empty store.

        Args:
            path: a local folder (which may exist, but must hold no store) or a URI such as ``s3://bucket/name``.
            spec: dtype and shape per step of each key. Where it has ``"action"`` but not ``"action_valid"``,
                the latter is added.
            env: JSON-able, with the environment's ``"id"`` and ``"kwargs"``.
            metadata: JSON-able, whatever else the store should say about itself.
            storage_options: credentials and the like for object stores, passed to Lance.

        Raises:
            ValueError: a spec without keys, a key that is no identifier, an env without id.
            StoreError: there is a store already, or the location cannot be written.
        """
        spec = dict(spec)
        if not spec:
            raise ValueError("spec must hold at least one key, got none")
        check_names(list(spec), "key")
        if "action" in spec:
            spec.setdefault("action_valid", ArraySpec("bool"))
        env = env.to_mapping() if isinstance(env, EnvSpec) else dict(env)
        if not isinstance(env.get("id"), str):
            raise ValueError(f"env must have the id of an environment, got {env.get('id')!r}")
        steps, episodes = table_uri(path, STEPS), table_uri(path, EPISODES)
        schema = steps_schema(spec, env, metadata or {})
        found = open_table(steps, storage_options)
        if open_table(episodes, storage_options) is not None or (found is not None and found.count_rows()):
            raise StoreError(f"{path} must not hold a store already, got one; open it or choose another path")
        # Steps first: a creation that dies in between leaves no committed episodes.lance and can be repeated.
        write_table(steps, [], schema, "create" if found is None else "overwrite", storage_options)
        write_table(episodes, [], records.base_schema(list(spec)), "create", storage_options)
        return cls(path, storage_options)

    @classmethod
    def open(cls, path: str | Path, *, storage_options: StorageOptions = None) -> TrajectoryStore:
        """Open the newest version of a store.

        Raises:
            StoreError: not a store, another format version, a missing column or table, a truncated file, or
                tables that disagree.
        """
        return cls(path, storage_options)

    @staticmethod
    def exists(path: str | Path, *, storage_options: StorageOptions = None) -> bool:
        """Whether a store was created at ``path``; folders that a killed creation left are not a store yet.

        Raises:
            StoreError: there is a table that cannot be read.
        """
        return open_table(table_uri(path, EPISODES), storage_options) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._options)

    def refresh(self) -> None:
        """Move to the newest version of the store, with what other writers have committed."""
        self._check_process()
        self._snapshot = load_snapshot(self.path, self._options)
        self._statistics: dict[tuple[str, bytes], Statistics] = {}
        self._is_stale = False

    def _current(self) -> Snapshot:
        self._check_process()
        if self._is_stale:
            self.refresh()
        return self._snapshot

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreError(
                "a store must be opened by the process that uses it (spawn it), got a forked one"
            )

    @property
    def spec(self) -> dict[str, ArraySpec]:
        """Dtype and shape per step of each key."""
        return dict(self._snapshot.spec)

    @property
    def env(self) -> dict[str, Any]:
        """The environment as given to :meth:`create`."""
        return dict(self._snapshot.env)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata given to :meth:`create`; under ``"versions"`` the software that created the store."""
        return dict(self._snapshot.metadata)

    @property
    def num_episodes(self) -> int:
        """Committed episodes."""
        return len(self.index.episode_index)

    @property
    def num_steps(self) -> int:
        """Rows of the committed episodes, final observations included."""
        return int(self.index.length.sum())

    @property
    def lengths(self) -> np.ndarray:
        """Rows per committed episode ``(E,)`` int64, in the order of ``episodes["episode_index"]``."""
        return self.index.length.copy()

    @property
    def episodes(self) -> dict[str, Any]:
        """Columns of the episode table, ascending by ``episode_index``.

        ``episode_index, length, seed`` int64 ``(E,)``, ``split`` text ``(E,)``, one array ``(E, ...)`` per
        factor of variation, and ``info``, a list of E dicts.
        """
        hidden = ("crc32", "record_crc32")
        return {name: column for name, column in self._current().records.items() if name not in hidden}

    @property
    def index(self) -> EpisodeIndex:
        """Where the committed episodes lie among the rows of :attr:`steps`."""
        return self._current().index

    @property
    def next_index(self) -> int:
        """Episode index that the next append would begin with, reservations of other writers included."""
        return next_claim(table_uri(self.path, EPISODES), self.index.next_index, self._options)

    @property
    def steps(self) -> lance.LanceDataset:
        """The open ``steps.lance`` at the version that this instance reads."""
        return self._current().steps

    def key_spec(self, key: str) -> ArraySpec:
        """Spec of one key; ValueError if the store does not hold it."""
        if key not in self._snapshot.spec:
            raise ValueError(f"key must be one of {', '.join(self._snapshot.spec)}, got {key!r}")
        return self._snapshot.spec[key]

    def append(
        self,
        episodes: Arrays | Sequence[Arrays],
        *,
        seeds: Sequence[int] | np.ndarray,
        split: str | Sequence[str] = "train",
        factors: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        expected_first: int | None = None,
    ) -> range:
        """Append episodes as one commit: they exist for readers when this returns, or not at all.

        Any number of processes may append at once; each receives indices of its own. Few large appends (8192
        rows or more) read faster than many small ones; :meth:`compact` mends the latter.

        Args:
            episodes: key -> ``(E, T+1, ...)`` for E episodes of equal length, or for each episode one mapping
                of ``(T_e+1, ...)`` arrays. ``action_valid`` may be left out.
            seeds: ``(E,)`` what each episode was generated from.
            split: name of the split, one for all or one per episode.
            factors: name -> ``(E, ...)`` factors of variation; the first append fixes which there are.
            info: JSON-able, one for all or one per episode.
            expected_first: refuse to append unless the first index is this one, i.e. unless nobody else has
                appended since it was read from :attr:`next_index`.

        Returns:
            The episode indices of the appended episodes.

        Raises:
            ValueError: arrays that do not match the spec, or lists of another length than E.
            StoreError: the store cannot be written; episodes committed before are intact.
        """
        self._check_process()
        blocks = make_blocks(episodes, self._snapshot.spec)
        lengths = np.concatenate([block.lengths for block in blocks])
        count = len(lengths)
        splits = [split] * count if isinstance(split, str) else list(split)
        infos = [info or {}] * count if info is None or isinstance(info, Mapping) else list(info)
        for name, values in (("seeds", seeds), ("split", splits), ("info", infos)):
            if len(values) != count:
                raise ValueError(
                    f"{name} must have one entry for each of {count} episodes, got {len(values)}"
                )
        columns = records.factor_arrays(factors or {}, count)
        check_names(list(columns), "factor")
        seed_array = np.asarray([int(seed) for seed in seeds], dtype=np.int64)
        checksums = [entry for block in blocks for entry in block.checksums]
        texts = records.info_texts(infos)

        uri, minimum = table_uri(self.path, EPISODES), self._snapshot.index.next_index
        first, schema = claim_indices(uri, count, columns, minimum, self._options, expected_first)
        indices = np.arange(first, first + count)
        record = records.record_batch(schema, indices, lengths, checksums, seed_array, splits, texts, columns)
        write_steps(self._snapshot.steps, blocks, first, self._options)
        write_table(uri, [record], schema, "append", self._options)
        self._is_stale = True
        return range(first, first + count)

    def read(self, keys: Sequence[str], episodes: Episodes = None) -> dict[str, np.ndarray]:
        """Read whole episodes: key -> ``(rows, ...)``, one episode after the other in the order asked."""
        positions = self.index.positions(episodes)
        rows = int(self.index.length[positions].sum())
        specs = {key: self.key_spec(key) for key in keys}
        out = {key: np.empty((rows, *spec.shape), spec.dtype) for key, spec in specs.items()}
        for target, arrays in self.iterate(keys, positions):
            for key, array in arrays.items():
                out[key][target] = array
        return out

    def iterate(
        self, keys: Sequence[str], positions: np.ndarray
    ) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Yield every row of the episodes at ``positions`` of :attr:`index` in pieces of a few MB.

        Each piece comes with the slice of the concatenated episodes that it fills, in the order of the disk.
        """
        return iterate_rows(self.steps, {key: self.key_spec(key) for key in keys}, self.index, positions)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Compare every committed value with the checksums recorded when it was appended.

        Args:
            progress: called with (bytes done, bytes in all) as verification goes.
        """
        return verify_columns(self._current(), progress)

    def delete_episodes(self, indices: Sequence[int] | np.ndarray) -> None:
        """Delete episodes and compact at once, since deleted rows slow every read until then."""
        gone = np.sort(self.index.episode_index[self.index.positions(indices)])
        maintenance.delete_rows(self.path, EPISODES, gone, self._options)  # from here on they do not exist
        maintenance.delete_rows(self.path, STEPS, gone, self._options)
        self.compact()

    def compact(self) -> None:
        """Merge what many small appends left behind; the order and values of rows stay the same."""
        self._check_process()
        maintenance.compact_tables(self.path, self._options)
        self.refresh()

    def repair(self, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove what dead writers and deletions left: orphan rows, unused files, old versions.

        Args:
            older_than: spares what is younger, because a living writer may still be about to list it. Zero is
                right only when nothing else reads from the store or writes to it.

        Returns:
            The number of orphan rows removed.
        """
        self.refresh()
        orphans = self.index.orphans
        if older_than:
            orphans = np.intersect1d(orphans, maintenance.episodes_with_rows_before(self.steps, older_than))
        removed = maintenance.delete_rows(self.path, STEPS, orphans, self._options)
        self.compact()
        maintenance.clean_up(self.path, older_than, self._options)
        return removed

    def statistics(self, keys: Sequence[str], episodes: Episodes = None) -> dict[str, Statistics]:
        """Mean, standard deviation, minimum and maximum of each key.

        Args:
            keys: which columns. Actions without a meaning (``action_valid = false``) do not count.
            episodes: episode indices; None is every episode of the split "train".

        Returns:
            key -> float64 arrays of the shape of one step, or ``(C,)`` for images ``(C, rows, cols)``.
        """
        snapshot = self._current()
        if episodes is None:
            positions = np.flatnonzero(snapshot.records["split"] == "train")
            if not len(positions):
                raise ValueError("the store must hold episodes of the split 'train', got none; pass episodes")
        else:
            positions = np.sort(snapshot.index.positions(episodes))
        chosen = positions.tobytes()
        missing = [key for key in dict.fromkeys(keys) if (key, chosen) not in self._statistics]
        for key, result in compute_statistics(self, missing, positions).items():
            self._statistics[key, chosen] = result
        return {key: dict(self._statistics[key, chosen]) for key in keys}

    def split_episodes(
        self, fractions: float | Mapping[str, float], seed: int, by: str = "episode"
    ) -> dict[str, np.ndarray]:
        """Split the committed episodes at random but for good, see :func:`split_groups`.

        Args:
            fractions: share of "train" (the rest is "val"), or name -> share, adding up to 1.
            seed: another seed is another split.
            by: ``"episode"``, or a column of :attr:`episodes` (``"seed"``, a factor such as the layout):
                episodes with equal values stay together.

        Returns:
            name -> ascending episode indices; disjoint, and together all episodes.
        """
        columns = {name: column for name, column in self.episodes.items() if name != "info"}
        groups = self.index.episode_index if by == "episode" else columns.get(by)
        if groups is None:
            raise ValueError(f"by must be 'episode' or one of {', '.join(columns)}, got {by!r}")
        parts = split_groups(groups, fractions, seed)
        return {name: self.index.episode_index[mask] for name, mask in parts.items()}
