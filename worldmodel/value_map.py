"""A head of the critic for feature maps: shortest ways over the goal's map, read off where the start is.

A distance between two vectors of features has to have learned every layout; a rule that carries values from position to
position does not (value iteration networks: Tamar et al. 2016, arXiv 1602.02867). Here the rule is that of Bellman and
Ford, with learned costs: ``V_p = min(V_p, min_q (c_pq + V_q))`` over the eight neighbours ``q``. The goal's map shows
walls and goal, so the values of all places are computed from it once, however many starts there are.

A policy can read the same values: :class:`Surroundings` is how they rise around where the agent is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOVES = tuple((row, col) for row in (0, 1, 2) for col in (0, 1, 2) if (row, col) != (1, 1))
FAR = 1e4  # beyond the edge of the map


class ValueMap(nn.Module):
    """``d(s, g)``: ways over the goal's map, read where attention finds the start in its own.

    Args:
        embedding_shape: ``(C, h, w)``.
        channels: maps of ways, each with costs of its own, and local features that are read beside them.
        hidden_channels: of the convolutions that read a map.
        num_iterations: how long ways may be [positions].
        sharpness: of the attention that finds the agent, a factor of its logits.
    """

    def __init__(
        self,
        embedding_shape: Sequence[int],
        *,
        channels: int = 8,
        hidden_channels: int = 32,
        num_iterations: int = 24,
        sharpness: float = 4.0,
    ) -> None:
        super().__init__()
        if len(embedding_shape) != 3:
            raise ValueError(f"a value map must be of a feature map (C, h, w), got {tuple(embedding_shape)}")
        self.embedding_shape = tuple(embedding_shape)
        self.channels, self.hidden_channels, self.num_iterations = channels, hidden_channels, num_iterations
        self.sharpness = sharpness
        features = embedding_shape[0]
        self.costs = nn.Sequential(
            nn.Conv2d(features, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, channels * len(MOVES), 1),
        )
        self.place = nn.Sequential(
            nn.Conv2d(features, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, 1 + channels, 1),
        )
        self.slope = nn.Parameter(torch.zeros(channels))  # how fast values rise where attention sees no goal
        self.read = nn.Sequential(nn.Linear(4 * channels, 64), nn.ReLU(), nn.Linear(64, 1))
        self.weight = nn.Parameter(torch.full((channels,), 1.0 / channels))

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return ``(...) >= 0`` from ``start (..., D)`` to ``goal (..., D)``, flat, whose leading axes broadcast.

        Goals that follow each other and are equal are planned to once.
        """
        lead = torch.broadcast_shapes(start.shape[:-1], goal.shape[:-1])
        goals, inverse = torch.unique_consecutive(
            goal.reshape(-1, goal.shape[-1]), dim=0, return_inverse=True
        )
        maps = goals.unflatten(1, self.embedding_shape)
        logits, local = self.places(maps)
        values, where = self.values(maps, logits), logits.softmax(-1)
        at_goal = torch.cat([torch.einsum("mp,mcp->mc", where, local), _read(where, values)], -1)
        values = values[inverse].reshape(*goal.shape[:-1], *values.shape[1:])  # (..., K, P)
        at_goal = at_goal[inverse].reshape(*goal.shape[:-1], -1)  # (..., 2 K)
        logits, local = self.places(start.reshape(-1, start.shape[-1]).unflatten(1, self.embedding_shape))
        where = logits.softmax(-1)
        here = _read(where, local).reshape(*start.shape[:-1], -1)
        where = where.reshape(*start.shape[:-1], -1)
        value = torch.einsum("...p,...kp->...k", where, values)
        parts = [part.expand(*lead, part.shape[-1]) for part in (value, here, at_goal)]
        return F.softplus(value @ self.weight + self.read(torch.cat(parts, -1))[..., 0])

    def values(self, maps: Tensor, logits: Tensor) -> Tensor:
        """Find the cheapest ways to the goal over maps ``(M, C, h, w)``: values ``(M, K, P)``, at ``P`` positions.

        Args:
            maps: of the goals.
            logits: ``(M, P)`` where the goal is on them, from :meth:`places`.
        """
        rows, cols = maps.shape[2:]
        costs = F.softplus(self.costs(maps)).unflatten(1, (self.channels, len(MOVES)))
        rise = (logits.amax(-1, keepdim=True) - logits).view(-1, 1, rows, cols)
        value = F.softplus(self.slope)[:, None, None] * rise
        for _ in range(self.num_iterations):
            wide = F.pad(value, (1, 1, 1, 1), value=FAR)
            beside = torch.stack([wide[..., i : i + rows, j : j + cols] for i, j in MOVES], 2)
            value = torch.minimum(value, (costs + beside).amin(2))
        return value.flatten(2)

    def places(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the agent may be, logits ``(M, P)``, and features of every position, ``(M, K, P)``."""
        found = self.place(maps).flatten(2)
        return self.sharpness * found[:, 0], found[:, 1:]


class Surroundings(nn.Module):
    """What a policy reads off a value map: which way the values fall, and what the maps show where start and goal are.

    A network on whole maps has to learn ways through every maze; one step of a way is nothing but the neighbour of the
    least value. The value map is used as it is, not trained.

    Args:
        value_map: of a trained critic.
    """

    def __init__(self, value_map: ValueMap) -> None:
        super().__init__()
        self.value_map = value_map.requires_grad_(False)
        self.num_features = 9 * value_map.channels + 2 * 9 * value_map.embedding_shape[0]

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return ``(B, num_features)`` of ``start (B, D)`` and ``goal (B, D)``, flat and standardised as the critic's.

        These are the values at the start, by how much its eight neighbours differ, squashed to (-1, 1), and the 3 x 3
        positions of either map around start and goal. Goals that follow each other and are equal are planned to once.
        """
        shape = self.value_map.embedding_shape
        goals, inverse = torch.unique_consecutive(goal, dim=0, return_inverse=True)
        maps = goals.unflatten(1, shape)
        logits, _ = self.value_map.places(maps)
        values = self.value_map.values(maps, logits).unflatten(2, shape[1:])  # (M, K, h, w)
        wide = F.pad(values, (1, 1, 1, 1), value=FAR)
        rows, cols = shape[1:]
        beside = torch.stack([wide[..., i : i + rows, j : j + cols] for i, j in MOVES], 2)
        falls = (beside - values[:, :, None]).tanh().flatten(1, 2)
        around = torch.cat([values, falls], 1).flatten(2)[inverse]  # (B, 9 K, P)
        at_goal = _read_around(logits.softmax(-1), maps)[inverse]
        here = start.unflatten(1, shape)
        where = self.value_map.places(here)[0].softmax(-1)
        return torch.cat([_read(where, around), _read_around(where, here), at_goal], 1)


def _read(where: Tensor, features: Tensor) -> Tensor:
    return torch.einsum("mp,mkp->mk", where, features)


def _read_around(where: Tensor, maps: Tensor) -> Tensor:
    """Return ``(M, 9 C)``: what ``maps (M, C, h, w)`` show at the 3 x 3 positions around ``where (M, P)``, zero outside.

    The weights are shifted in the place of the maps, which have many more channels.
    """
    shifted = F.unfold(where.unflatten(1, (1, *maps.shape[2:])), 3, padding=1).flip(1)  # (M, 9, P)
    return torch.einsum("mnp,mcp->mcn", shifted, maps.flatten(2)).flatten(1)
