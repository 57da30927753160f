"""From a store and a world model to path graphs: what a critic on shortest paths is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from benchmarks.preparation import derived_keys, encode_rows
from benchmarks.seeding import derive_seed, make_generator
from planners.bounds import ActionBounds
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import JEPA
from worldmodel.paths import (
    PathConfig,
    PathGraph,
    StaticCode,
    imagine_from,
    median_step,
    nearest_episodes,
    nearest_nodes,
    path_lengths,
)

BLOCK_EPISODES = 256  # read at once
HELD_NOISE = 0.2  # std around a held action, as a share of the bounds' half width


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

    Nothing but observations and the boundaries of the episodes is read. The graphs take, at half precision,
    ``num_graphs * N * (4 D + 2 N)`` bytes for ``N`` nodes each.

    Args:
        model: the world model.
        store: the trajectories.
        episodes: indices to use.
        config: sizes.
        seed: of the choice of graphs and of the imagined rollouts.
        on_graph: called after each graph with the graphs done and the graphs in all.

    Raises:
        ValueError: an action bound is not finite, or there are fewer than two episodes.
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

    bounds = _bounds(store)
    graphs = []
    for number, group in enumerate(groups):
        arrays, lengths = frames.read(episodes[group.numpy()])
        embeddings = frames.encode(arrays, torch.arange(int(lengths.sum())))
        step = median_step(embeddings, lengths.tolist())
        time = torch.cat([torch.arange(length) for length in lengths.tolist()])
        chosen = (time % config.every == 0).nonzero()[:, 0]
        nodes = embeddings[chosen.to(embeddings.device)]
        steps = path_lengths(nodes, time[chosen] == 0, step, config.near, config.every)
        actions = _held_actions(bounds, len(nodes), config.imagined_steps, generator).to(model.device)
        num_steps = torch.randint(1, config.imagined_steps + 1, (len(nodes),), generator=generator)
        imagined = imagine_from(model, nodes, actions, num_steps)
        nearest, gap = nearest_nodes(imagined, nodes, step)
        graphs.append(PathGraph(nodes.half(), steps.half(), imagined.half(), nearest.cpu(), gap.cpu()))
        if on_graph is not None:
            on_graph(number + 1, len(groups))
    return graphs


def _bounds(store: TrajectoryStore) -> ActionBounds:
    allowed = store.env["action"]
    if not np.isfinite([allowed["low"], allowed["high"]]).all():
        raise ValueError(f"action bounds must be finite to imagine random actions, got {allowed}")
    return ActionBounds(torch.tensor(allowed["low"]), torch.tensor(allowed["high"]), allowed["max_norm"])


def _held_actions(bounds: ActionBounds, num: int, horizon: int, generator: torch.Generator) -> Tensor:
    """Draw action sequences ``(num, horizon, A)`` such as planners try: one action, held with some noise."""
    shape, width = (num, 1, bounds.action_dim), (bounds.high - bounds.low) / 2
    held = bounds.low + 2 * width * torch.rand(shape, generator=generator)
    noise = torch.randn((num, horizon, bounds.action_dim), generator=generator)
    return bounds.project(held + HELD_NOISE * width * noise)


class _Frames:
    """Frames of whole episodes, encoded."""

    def __init__(self, model: JEPA, store: TrajectoryStore) -> None:
        self.model, self.store = model, store
        self.keys = list(model.observation_keys)
        self.derived = derived_keys(store, self.keys, model.device)
        self.sources = list(
            dict.fromkeys(self.derived[key][0] if key in self.derived else key for key in self.keys)
        )

    def read(self, episodes: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Return the rows of ``episodes``, one after the other, and their lengths."""
        lengths = self.store.index.length[self.store.index.positions(episodes)]
        arrays = self.store.read(self.sources, episodes)
        return {key: torch.from_numpy(array) for key, array in arrays.items()}, lengths

    def encode(self, arrays: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Return the flat embeddings ``(rows, D)``."""
        return encode_rows(self.model, arrays, rows, self.keys, self.derived)
