"""From a store and a world model to path graphs: what a critic on shortest paths is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.preparation import ENCODE_ROWS, derived_keys
from benchmarks.seeding import derive_seed, make_generator
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import JEPA
from worldmodel.paths import (
    PathConfig,
    PathGraph,
    StaticCode,
    imagine_frames,
    nearest_episodes,
    path_lengths,
)

BLOCK_EPISODES = 256  # read at once


@torch.no_grad()
def build_path_graphs(
    model: JEPA,
    store: TrajectoryStore,
    episodes: np.ndarray,
    config: PathConfig,
    seed: int,
    on_graph: Callable[[int, int], None] | None = None,
) -> list[PathGraph]:
    """Pool the episodes that show the same world and measure the paths between their frames.

    Nothing but observations, actions and the boundaries of the episodes is read. The graphs take, at half precision,
    ``num_graphs * N * (4 D + 2 N)`` bytes for ``N`` nodes each.

    Args:
        model: the world model.
        store: the trajectories.
        episodes: indices to use.
        config: sizes.
        seed: of the choice of graphs and of the imagined rollouts.
        on_graph: called after each graph with the graphs done and the graphs in all.
    """
    frames = _Frames(model, store)
    code = StaticCode(int(np.prod(model.embedding_shape)), config.static_dims)
    for first in range(0, len(episodes), BLOCK_EPISODES):
        arrays, lengths = frames.read(episodes[first : first + BLOCK_EPISODES])
        begin = np.cumsum(lengths) - lengths
        within = np.linspace(0, lengths - 1, config.static_frames).round().astype(np.int64).T
        rows = torch.from_numpy((begin[:, None] + within).ravel())
        code.add(frames.encode(arrays, rows).unflatten(0, (len(lengths), config.static_frames)))
    generator = make_generator(derive_seed(seed, "graphs"), "centres")
    groups = nearest_episodes(code.codes(), config.num_graphs, config.episodes_per_graph, generator)

    graphs = []
    for number, group in enumerate(groups):
        arrays, lengths = frames.read(episodes[group.numpy()], "action")
        embeddings = frames.encode(arrays, torch.arange(int(lengths.sum())))
        nodes, steps = path_lengths(embeddings, lengths.tolist(), config.near, config.every)
        actions = torch.from_numpy(arrays["action"]).to(model.device)
        parts = zip(embeddings.split(lengths.tolist()), actions.split(lengths.tolist()), strict=True)
        imagined = torch.cat(
            [imagine_frames(model, s, a, config.imagined_steps, generator) for s, a in parts]
        )
        rows = nodes.to(model.device)
        graphs.append(PathGraph(embeddings[rows].half(), imagined[rows].half(), steps.half()))
        if on_graph is not None:
            on_graph(number + 1, len(groups))
    return graphs


class _Frames:
    """Frames of whole episodes, encoded."""

    def __init__(self, model: JEPA, store: TrajectoryStore) -> None:
        self.model, self.store = model, store
        self.keys = list(model.observation_keys)
        self.derived = derived_keys(store, self.keys, model.device)
        self.sources = [self.derived[key][0] if key in self.derived else key for key in self.keys]

    def read(self, episodes: np.ndarray, *more: str) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """Return the rows of ``episodes``, one after the other, and their lengths."""
        lengths = self.store.index.length[self.store.index.positions(episodes)]
        return self.store.read([*dict.fromkeys(self.sources), *more], episodes), lengths

    def encode(self, arrays: Mapping[str, np.ndarray], rows: Tensor) -> Tensor:
        """Return the flat embeddings ``(rows, D)``."""
        parts = []
        for chosen in rows.split(ENCODE_ROWS):
            obs: dict[str, Any] = {}
            for key, source in zip(self.keys, self.sources, strict=True):
                values = torch.from_numpy(arrays[source][chosen.numpy()]).to(self.model.device)
                obs[key] = self.derived[key][1](values) if key in self.derived else values
            parts.append(self.model.encode(obs).flatten(1))
        return torch.cat(parts)
