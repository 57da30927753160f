"""Distances between states, read off trajectories: shortest paths over the frames of episodes that share a world.

Temporal differences do not carry the cost of a detour through a narrow door from trajectory to trajectory; shortest paths
do (Eysenbach et al. 2019, arXiv 1906.05253, plan over a graph of replayed states; here paths are targets for a critic).
Three steps, none of which needs a label:

1. Which episodes show the same world? What stays the same within an episode and differs between episodes is the world
   itself. :class:`StaticCode` finds those directions of the embedding by Fisher's discriminant (scatter between episodes
   over scatter within them), and :func:`nearest_episodes` pools the episodes whose codes are close. These are the slow
   features that a world model must not be reduced to; here they are wanted.
2. Which frames are neighbours? Consecutive ones, one step apart, and those whose embeddings differ by less than a few
   median steps: :func:`path_lengths` joins them and measures the shortest paths, in steps.
3. What will the critic be asked? Planners show it imagined embeddings, which are not quite those of the encoder: a dot
   half-way in a wall, for instance, which a critic that never saw one takes to be half-way through. So the critic is also
   trained on what the model imagines along recorded actions (:func:`imagine_from`), with the path from the frame that
   those actions really led to as its length: where the model is wrong, the critic knows better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from worldmodel.jepa import JEPA

RIDGE = 1e-3  # of the mean within-episode variance, added to every direction's
SHORTEST_EDGE = 0.05  # least distance of two frames [steps]; a sparse graph has no edge of 0
GRAPHS_PER_BATCH = 32


@dataclass(frozen=True)
class PathConfig:
    """How distances are read off trajectories."""

    num_graphs: int = 200
    episodes_per_graph: int = 30
    static_dims: int = 64  # directions of the static code
    static_frames: int = 16  # frames per episode that the static code is fitted on
    near: float = (
        3.0  # frames nearer than this many median steps are neighbours; less than what walls are wide
    )
    imagined_steps: int = 8  # each node is also imagined from 1 .. this many steps before it
    every: int = 2  # only each so-manieth frame of an episode is a node of its graph

    def __post_init__(self) -> None:
        for name in (
            "num_graphs",
            "episodes_per_graph",
            "static_dims",
            "static_frames",
            "imagined_steps",
            "every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.near > 0:
            raise ValueError(f"near must be > 0, got {self.near}")


class StaticCode:
    """Fisher's discriminant with one class per episode, fitted on streamed frames.

    The code of an episode is the mean of its frames along the directions of the largest ratio of the scatter between
    episodes to the scatter within them, in units of the standard deviation within (Fisher 1936; Rao 1948).

    Args:
        embedding_dim: ``D``, flat.
        num_dims: directions kept, ``K``; at most ``D``.
    """

    def __init__(self, embedding_dim: int, num_dims: int) -> None:
        self.num_dims = min(num_dims, embedding_dim)
        self._means: list[Tensor] = []
        self._scatter = torch.zeros(embedding_dim, embedding_dim, dtype=torch.float64)
        self._freedom = 0

    def add(self, frames: Tensor) -> None:
        """Take in ``(E, F, D)``: ``F`` frames of each of ``E`` further episodes."""
        mean = frames.mean(dim=1, keepdim=True)
        within = (frames - mean).flatten(0, 1).double().cpu()
        self._scatter += within.T @ within
        self._freedom += len(within) - len(frames)
        self._means.append(mean[:, 0].cpu())

    def codes(self) -> Tensor:
        """Return the codes of all episodes, ``(E, K)``, in the order they were taken in.

        Raises:
            ValueError: fewer than two episodes, or one frame per episode only.
        """
        means = torch.cat(self._means).double() if self._means else torch.zeros(0, len(self._scatter))
        if len(means) < 2 or self._freedom < 1:
            raise ValueError(
                f"a static code must be fitted on at least 2 episodes of 2 frames, got {len(means)} episodes"
            )
        within = self._scatter / self._freedom
        within += RIDGE * within.diagonal().mean().clamp(min=1e-12) * torch.eye(len(within)).double()
        centred = means - means.mean(dim=0)
        whiten = torch.linalg.inv(torch.linalg.cholesky(within))
        whitened = centred @ whiten.T
        _, axes = torch.linalg.eigh(whitened.T @ whitened / (len(means) - 1))
        return (whitened @ axes[:, -self.num_dims :]).float()


def nearest_episodes(codes: Tensor, num_groups: int, size: int, generator: torch.Generator) -> Tensor:
    """Pool episodes around random ones by their codes ``(E, K)``: indices ``(num_groups, size)``, the centre first.

    There are at most ``E`` groups of at most ``E`` episodes.
    """
    num_groups, size = min(num_groups, len(codes)), min(size, len(codes))
    centres = torch.randperm(len(codes), generator=generator)[:num_groups]
    distance = torch.cdist(codes[centres], codes)
    distance[torch.arange(num_groups), centres] = -1
    return distance.topk(size, largest=False).indices


def median_step(embeddings: Tensor, lengths: Sequence[int]) -> float:
    """Return how far one step leads in embedding space: the median over the steps of the episodes.

    Args:
        embeddings: ``(N, D)``, all frames of the episodes one after the other.
        lengths: frames of each episode; they add up to ``N``.
    """
    if sum(lengths) != len(embeddings):
        raise ValueError(f"lengths must add up to the {len(embeddings)} embeddings, got {sum(lengths)}")
    is_first = torch.cat([torch.arange(length) == 0 for length in lengths])
    after = (~is_first).nonzero()[:, 0].to(embeddings.device)
    return max(float((embeddings[after] - embeddings[after - 1]).norm(dim=-1).median()), 1e-12)


def path_lengths(nodes: Tensor, is_first: Tensor, step: float, near: float, every: int = 1) -> Tensor:
    """Measure the shortest paths between the nodes of a graph.

    How well the episodes cover the world decides how good the lengths are; frames between frames add little.

    Args:
        nodes: ``(N, D)``, frames of episodes one after the other, each ``every`` steps after the one before.
        is_first: ``(N,)`` bool, the first node of each episode.
        step: how far one step leads in embedding space.
        near: nodes that are less than this many steps apart in embedding space are neighbours, at that distance.
        every: steps between two nodes of an episode.

    Returns:
        ``(N, N)`` [steps] on the CPU, symmetric, infinite where no path leads.
    """
    distance = torch.cdist(nodes, nodes).cpu() / step
    weight = distance.clamp(min=SHORTEST_EDGE).masked_fill(distance >= near, torch.inf)
    later = (~is_first).nonzero()[:, 0]
    for i, j in ((later - 1, later), (later, later - 1)):
        weight[i, j] = weight[i, j].clamp(max=float(every))
    weight.fill_diagonal_(torch.inf)
    rows, columns = weight.isfinite().nonzero(as_tuple=True)
    edges = (weight[rows, columns].numpy(), (rows.numpy(), columns.numpy()))
    return torch.from_numpy(dijkstra(csr_array(edges, shape=weight.shape), directed=False)).float()


@torch.no_grad()
def imagine_from(model: JEPA, nodes: Tensor, actions: Tensor, num_steps: Tensor) -> Tensor:
    """Imagine where each node's own number of actions leads.

    Args:
        model: the world model; one with a context imagines as if nothing had been before.
        nodes: ``(N, D)``, flat.
        actions: ``(N, H, A)``.
        num_steps: ``(N,)`` in 1 .. ``H``.

    Returns:
        ``(N, D)``.
    """
    futures = model.rollout(nodes.unflatten(1, model.embedding_shape), actions).flatten(2)
    return futures[torch.arange(len(nodes), device=futures.device), num_steps.to(futures.device) - 1]


@dataclass(frozen=True)
class PathGraph:
    """Frames of one world, the paths between them, and what the model imagined of them.

    Attributes:
        nodes: ``(N, D)`` embeddings, half precision.
        steps: ``(N, N)`` [steps], infinite where no path leads; half precision, on the CPU.
        imagined: ``(M, D)`` imagined embeddings, half precision.
        arrived: ``(M,)`` the node that the same actions really led to, on the CPU.
    """

    nodes: Tensor
    steps: Tensor
    imagined: Tensor
    arrived: Tensor


class PathPairs:
    """Batches of (start, goal, steps) within graphs; half of the starts are imagined.

    Args:
        graphs: at least one.
        batch_size: pairs per batch, at most: pairs that no path joins are left out.
        seed: batches are a function of ``(seed, step)``.
        starts_per_goal: as many pairs, one after the other, have one goal.

    Raises:
        ValueError: there is no graph.
    """

    def __init__(
        self, graphs: Sequence[PathGraph], batch_size: int, seed: int, starts_per_goal: int = 1
    ) -> None:
        if not graphs:
            raise ValueError("path pairs must be drawn from at least one graph, got none")
        self.graphs, self.batch_size, self.seed = graphs, batch_size, seed
        self.starts_per_goal = starts_per_goal
        self.worlds = torch.stack([graph.nodes.float().mean(dim=0) for graph in graphs])  # (G, D)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ``start (M, D)``, ``goal (M, D)``, ``steps (M,)`` and ``world (M, D)`` of the batch of ``step``.

        The last is the mean of the frames of that world: what start and goal have in common.
        """
        seed = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(seed)
        starts, goals, steps, worlds = [], [], [], []
        num_graphs = min(GRAPHS_PER_BATCH, max(1, self.batch_size // 2))  # a start of either kind from each
        share = self.batch_size // num_graphs
        half = share // 2
        for index in torch.randint(len(self.graphs), (num_graphs,), generator=generator).tolist():
            graph = self.graphs[index]
            i, j = torch.randint(len(graph.nodes), (2, share), generator=generator)
            j = j[:: self.starts_per_goal].repeat_interleave(self.starts_per_goal)[:share]
            k = torch.randint(len(graph.imagined), (share - half,), generator=generator)
            length = torch.cat([graph.steps[i[:half], j[:half]], graph.steps[graph.arrived[k], j[half:]]])
            device, is_joined = graph.nodes.device, length.isfinite()
            encoded, imagined = i[:half][is_joined[:half]], k[is_joined[half:]]
            starts += [graph.nodes[encoded.to(device)], graph.imagined[imagined.to(device)]]
            goals.append(graph.nodes[j[is_joined].to(device)])
            steps.append(length[is_joined].to(device))
            worlds.append(self.worlds[index].expand(len(steps[-1]), -1))
        return {
            "start": torch.cat(starts).float(),
            "goal": torch.cat(goals).float(),
            "steps": torch.cat(steps).float(),
            "world": torch.cat(worlds),
        }

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every feature over the frames, ``(D,)`` each."""
        frames = torch.cat([graph.nodes[:: max(1, len(graph.nodes) // 32)] for graph in self.graphs])
        return frames.float().mean(dim=0), frames.float().std(dim=0)
