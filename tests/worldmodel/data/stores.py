"""Small stores for the tests of this folder."""

import numpy as np

from worldmodel.data import ArraySpec, TrajectoryStore

SPEC = {
    "pixels": ArraySpec("uint8", (3, 8, 8)),
    "state": ArraySpec("float32", (4,)),
    "action": ArraySpec("float32", (2,)),
    "reward": ArraySpec("float64"),
}
ENV = {"id": "worldmodel/Test-v0", "kwargs": {"image_size": 8}}


def make_episodes(num_episodes, rows, seed=0):
    """Random values for ``SPEC``: key -> (E, rows, ...)."""
    rng = np.random.default_rng(seed)
    return {
        "pixels": rng.integers(0, 256, (num_episodes, rows, 3, 8, 8), dtype=np.uint8),
        "state": rng.normal(size=(num_episodes, rows, 4)).astype(np.float32),
        "action": rng.normal(size=(num_episodes, rows, 2)).astype(np.float32),
        "reward": rng.normal(size=(num_episodes, rows)),
    }


def make_ragged(lengths, seed=0):
    """One mapping of (rows, ...) arrays per length."""
    return [
        {key: array[0] for key, array in make_episodes(1, rows, seed + number).items()}
        for number, rows in enumerate(lengths)
    ]


def make_store(path, lengths=(5, 9, 7, 20, 6), split="train"):
    """A store of ragged episodes, and the episodes in it."""
    store = TrajectoryStore.create(path, SPEC, env=ENV)
    episodes = make_ragged(lengths)
    store.append(episodes, seeds=range(len(lengths)), split=split)
    return store, episodes
