"""From a store and a world model to path graphs: what a critic on shortest paths is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.preparation import EpisodeFrames
from benchmarks.seeding import derive_seed, make_generator
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import JEPA
from worldmodel.paths import (
    PathConfig,
    PathGraph,
    StaticCode,
    imagine_from,
    median_step,
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

    Raises:
        ValueError: there are fewer than two episodes.
    """
    frames = EpisodeFrames(model, store)
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
        arrays, lengths = frames.read(episodes[group.numpy()])
        embeddings = frames.encode(arrays, torch.arange(int(lengths.sum())))
        step = median_step(embeddings, lengths.tolist())
        time = torch.cat([torch.arange(length) for length in lengths.tolist()])
        chosen = (time % config.every == 0).nonzero()[:, 0]
        nodes = embeddings[chosen.to(embeddings.device)]
        steps = path_lengths(nodes, time[chosen] == 0, step, config.near, config.every)
        lag = torch.randint(1, config.imagined_steps + 1, (len(nodes),), generator=generator)
        arrived = (time[chosen] >= lag).nonzero()[:, 0]
        lag = lag[arrived]
        before = chosen[arrived] - lag
        rows = before[:, None] + torch.arange(config.imagined_steps).minimum(lag[:, None] - 1)
        imagined = imagine_from(
            model, embeddings[before.to(embeddings.device)], arrays["action"][rows].to(model.device), lag
        )
        graphs.append(PathGraph(nodes.half(), steps.half(), imagined.half(), arrived))
        if on_graph is not None:
            on_graph(number + 1, len(groups))
    return graphs
