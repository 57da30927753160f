"""Costs on imagined futures: what a planner minimises (LeCun 2022, section 3.2).

A cost is a module called as ``cost(embeddings, actions, goal)`` with

* embeddings ``(..., H, *D)``: entry ``k`` follows ``actions[..., k, :]``,
* actions ``(..., H, A)``,
* goal ``(..., *D)``,

whose leading axes broadcast; it returns ``(...)``. A planner passes ``(B, N, H, *D)`` with a goal ``(B, 1, *D)``, so what
depends on the goal alone is computed once per problem. Costs add and scale: ``LastDistance() + 0.1 * ActionEffort()``.
Intrinsic costs have no parameters; the trainable one is the critic (:mod:`worldmodel.critic`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def flatten_embeddings(embeddings: Tensor, actions: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten the feature axes: embeddings to ``(..., H, D)``, goal to ``(..., D)``."""
    lead = actions.ndim - 2
    return embeddings.flatten(lead + 1), goal.flatten(lead)


class Cost(nn.Module):
    """Something that rates imagined futures; lower is better."""

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Return the cost ``(...)`` of embeddings ``(..., H, *D)`` under actions ``(..., H, A)``."""
        raise NotImplementedError

    def __add__(self, other: Cost) -> WeightedSum:
        return WeightedSum([(1.0, self), (1.0, other)])

    def __mul__(self, weight: float) -> WeightedSum:
        return WeightedSum([(float(weight), self)])

    __rmul__ = __mul__


class WeightedSum(Cost):
    """``sum_i w_i c_i``."""

    def __init__(self, parts: Sequence[tuple[float, Cost]]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a weighted sum must have at least one cost, got none")
        self.weights = [weight for weight, _ in parts]
        self.costs = nn.ModuleList(cost for _, cost in parts)

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Return the weighted sum of the costs."""
        values = [w * c(embeddings, actions, goal) for w, c in zip(self.weights, self.costs, strict=True)]
        return torch.stack(torch.broadcast_tensors(*values)).sum(dim=0)


class LastDistance(Cost):
    """Mean squared distance of the last embedding to the goal."""

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Return ``mean_d (s_H - g)^2``."""
        flat, target = flatten_embeddings(embeddings, actions, goal)
        return (flat[..., -1, :] - target).square().mean(dim=-1)


class SummedDistance(Cost):
    """Mean squared distance to the goal, summed over the steps."""

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Return ``sum_k mean_d (s_k - g)^2``."""
        flat, target = flatten_embeddings(embeddings, actions, goal)
        return (flat - target[..., None, :]).square().mean(dim=-1).sum(dim=-1)


class ActionEffort(Cost):
    """Mean squared action."""

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``mean_k |a_k|^2``; embeddings and goal are not read."""
        return actions.square().sum(dim=-1).mean(dim=-1)
