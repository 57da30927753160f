"""A critic of a hard-wired cost: what the cost will sum up to, found by value iteration in the world model.

A plan is as long as imagination carries, and a hard-wired cost says nothing of what comes after it. The critic of LeCun
2022 (section 3.2) predicts that: the future of the intrinsic cost. Here it is trained on no one's actions but on what the
world model imagines of random ones, by the rule of fitted value iteration (Munos & Szepesvari 2008): the value of a place
is the cost of the best candidate plus the value of where it leads,

    V(s, g) = min_a  c(s_1 .. s_H, g) + discount^H V'(s_H, g),

where candidates ``a`` are held for ``H`` steps and ``V'`` is a moving average of ``V``, the larger of two. Minima over
whole candidates see around corners that the gradient of the cost does not: a pusher on the wrong side of a block has to
go round it first.

Part of the starts are where the best candidates of earlier batches led (:mod:`worldmodel.carrying`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.carrying import CarriedStarts
from worldmodel.costs import Cost
from worldmodel.critic import Critic, ValueHead

STRETCH = 1.5  # of the box that candidates are drawn from before they are clipped: the best are often extreme


@dataclass(frozen=True)
class ValueIterationConfig:
    """What a value is: of which cost, how far it looks, and among how many candidates it chooses."""

    cost: str = "task"  # a cost that says nothing of the future beyond a plan, see benchmarks.cost_names
    num_candidates: int = 12  # random actions per start
    hold: int = 2  # steps for which a candidate is held, H
    discount: float = 0.975  # per step: what is 1 / (1 - discount) steps ahead still counts
    carried: float = 0.5  # share of the starts that go on where the best candidate of an earlier batch led

    def __post_init__(self) -> None:
        for name in ("num_candidates", "hold"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("discount", "carried"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if "critic" in self.cost:
            raise ValueError(f"cost of value iteration must not be the critic's own, got {self.cost!r}")


class ValueIterationObjective(nn.Module):
    """A critic, its moving-average target, and one backup of fitted value iteration.

    Args:
        critic: the critic to train, with the head "mlp".
        rollout: ``(embedding (N, *D), actions (N, H, A)) -> (N, H, *D)``, imagination in a frozen world model.
        cost: sums a cost over the steps of a plan.
        project: moves actions ``(..., A)`` onto what is allowed.
        low: ``(A,)`` finite lower bounds [action units].
        high: ``(A,)`` finite upper bounds.
        config: candidates and discount.
        batch_size: of every batch, ``M``.
        seed: what is drawn is a function of ``(seed, step)``.

    Raises:
        ValueError: the critic has another head, or a bound is not finite.
    """

    terms = ("value",)

    def __init__(
        self,
        critic: Critic,
        rollout: Callable[[Tensor, Tensor], Tensor],
        cost: Cost,
        project: Callable[[Tensor], Tensor],
        low: Tensor,
        high: Tensor,
        config: ValueIterationConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        if not isinstance(critic.head, ValueHead):
            raise ValueError(f"head of a critic by value iteration must be mlp, got {critic.config.head!r}")
        if not bool(torch.isfinite(torch.stack([low, high])).all()):
            raise ValueError(
                f"action bounds of value iteration must be finite, got low {low.tolist()} and high {high.tolist()}"
            )
        self.critic = critic
        self.target_head = copy.deepcopy(critic.head).requires_grad_(False)
        self.config, self.seed = config, seed
        size, num_carried = math.prod(critic.embedding_shape), int(config.carried * batch_size)
        self.carried = CarriedStarts(num_carried, size, seed + 1).to(low.device)
        # Kept out of the module tree: the model and the cost are used, not trained or saved.
        self._frozen = (rollout, cost, project, (low + high) / 2, (high - low) / 2)

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:
        """Return ``{"value": squared error}``, in units of the critic's scale, for ``start`` and ``goal (M, D)``.

        From the second step on the first of them are replaced by those that are carried on.
        """
        start, goal = self.carried.mix(batch, step)
        target, ahead = self.backup(start, goal, step)
        self.carried.keep(ahead, goal, batch, step)
        head = self.critic.head
        assert isinstance(head, ValueHead)
        error = head.each(*self.critic.seen(start, goal)) - target / self.critic.config.scale
        return {"value": error.square().mean()}

    @torch.no_grad()
    def backup(self, start: Tensor, goal: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return ``(M,)``, the least that a candidate costs with what comes after it, and where it leads, ``(M, D)``."""
        rollout, cost, project, center, half_width = self._frozen
        num, config, shape = len(start), self.config, self.critic.embedding_shape
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        uniform = 2 * torch.rand(num, config.num_candidates, len(center), generator=generator) - 1
        action = project(center + half_width * (STRETCH * uniform.to(start.device)).clamp(-1, 1))
        plans = action[:, :, None].expand(-1, -1, config.hold, -1)  # (M, N, H, A)
        starts = start[:, None].expand(-1, config.num_candidates, -1).flatten(0, 1)
        ahead = rollout(starts.unflatten(1, shape), plans.flatten(0, 1)).unflatten(0, plans.shape[:2])
        paid = cost(ahead, plans, goal.unflatten(1, shape)[:, None])
        last = ahead[:, :, -1].flatten(2)
        after = self.critic.config.scale * self.target_head.worst(*self.critic.seen(last, goal[:, None]))
        best, chosen = (paid + config.discount**config.hold * after).min(1)
        return best, last[torch.arange(num, device=last.device), chosen]

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network towards the online one by the critic's ``target_rate``."""
        rate = self.critic.config.target_rate
        for target, source in zip(self.target_head.parameters(), self.critic.head.parameters(), strict=True):
            target.lerp_(source, rate)
