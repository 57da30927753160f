"""The agent and its configurator: one goal, one world model, and the mode to act in.

Mode 1 reacts: ``policy(embedding, goal)``. Mode 2 plans: it minimises a cost of imagined futures with an :class:`MPC`;
a policy, if there is one, proposes the planner's first candidate. The agent knows the world model by two methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.mpc import MPC
from planners.plan import CostFn
from planners.policy import EmbeddingCostFn, GoalPolicy


class WorldModel(Protocol):
    """What the agent asks of a world model."""

    def encode(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Encode observations ``(B, *O)`` to embeddings ``(B, *D)``."""

    def rollout(
        self,
        embedding: Tensor,
        actions: Tensor,
        latents: Tensor | None = None,
        memory: Any = None,  # noqa: ANN401
    ) -> Tensor:
        """Imagine ``(B, H, *D)`` from ``(B, *D)`` under actions ``(B, H, A)``."""


def imagined_cost(
    model: WorldModel,
    cost: EmbeddingCostFn,
    embedding: Tensor,
    goal: Tensor,
    memory: Any = None,  # noqa: ANN401
) -> CostFn:
    """Turn a world model and a cost of embeddings into a cost of action sequences.

    Args:
        model: the world model.
        cost: ``(embeddings (B, N, H, *D), actions (B, N, H, A), goal (B, 1, *D)) -> (B, N)``.
        embedding: ``(B, *D)``, encoded once.
        goal: ``(B, *D)``.
        memory: short-term memory of ``B`` rows with a method ``repeat(num)``, or None.

    Returns:
        ``actions (B, N, H, A) -> cost (B, N)``.
    """

    def cost_fn(actions: Tensor) -> Tensor:
        batch, num = actions.shape[:2]
        start = embedding.repeat_interleave(num, dim=0)
        past = None if memory is None else memory.repeat(num)
        futures = model.rollout(start, actions.flatten(0, 1), memory=past)
        return cost(futures.unflatten(0, (batch, num)), actions, goal[:, None])

    return cost_fn


class Agent:
    """Act towards goals in mode 1 or mode 2; ``B`` problems advance together.

    Args:
        model: the world model.
        bounds: allowed actions; every action is projected onto them.
        mode: ``"1"``: the policy acts; ``"2"``: the planner acts.
        policy: needed for mode 1, which acts with its noise; in mode 2 it proposes the first candidate, without noise.
        mpc: needed for mode 2.
        cost: cost of imagined futures, needed for mode 2.
        empty_memory: number of problems -> empty short-term memory, for models that look further back than one step.
        remember: ``(memory, embedding, action) -> memory``, goes with ``empty_memory``.
        generator: of the policy's noise, on the model's device; None is torch's own.

    Raises:
        ValueError: something that the mode needs is missing.
    """

    def __init__(
        self,
        model: WorldModel,
        bounds: ActionBounds,
        *,
        mode: str,
        policy: GoalPolicy | None = None,
        mpc: MPC | None = None,
        cost: EmbeddingCostFn | None = None,
        empty_memory: Callable[[int], Any] | None = None,
        remember: Callable[[Any, Tensor, Tensor], Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if mode not in ("1", "2"):
            raise ValueError(f"mode must be '1' or '2', got {mode!r}")
        if mode == "1" and policy is None:
            raise ValueError("mode 1 must have a policy, got none")
        if mode == "2" and (mpc is None or cost is None):
            raise ValueError("mode 2 must have an mpc and a cost, got none")
        if (empty_memory is None) != (remember is None):
            raise ValueError("empty_memory and remember must be given together, got one of them")
        self.model = model
        self.bounds = bounds
        self.mode = mode
        self.policy = policy
        self.mpc = mpc
        self.cost = cost
        self.goal: Tensor | None = None
        self._empty_memory = empty_memory
        self._remember = remember
        self._memory: Any = None
        self._generator = generator

    @torch.no_grad()
    def set_goal(self, obs: Mapping[str, Tensor]) -> None:
        """Encode the goals' observations ``(B, *O)`` once, and forget everything about earlier goals."""
        self.goal = self.model.encode(obs)
        self.reset()
        self._memory = self._empty_memory(len(self.goal)) if self._empty_memory is not None else None

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget plans and memory of the problems in ``mask (B,)``, or of all."""
        if self.mpc is not None:
            self.mpc.reset(mask)
        if self._memory is not None:
            everyone = torch.ones(len(self._memory.valid), dtype=torch.bool, device=self._memory.valid.device)
            self._memory = self._memory.forget(everyone if mask is None else mask)

    @torch.no_grad()
    def act(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Choose actions ``(B, A)`` for observations ``(B, *O)``; encodes them at most once.

        Raises:
            ValueError: no goal was set, or the number of problems differs from the goals'.
        """
        if self.goal is None:
            raise ValueError("a goal must be set before acting, got none")
        num = len(next(iter(obs.values())))
        if num != len(self.goal):
            raise ValueError(f"observations must have as many rows as goals ({len(self.goal)}), got {num}")
        if self.mode == "2" and self._memory is None and self.mpc is not None and not self.mpc.needs_plan:
            return self.mpc.act(_never_planned, num)  # the rest of a plan needs no look at the world
        embedding = self.model.encode(obs)
        action = self.choose(embedding)
        self.remember(embedding, action)
        return action

    @torch.no_grad()
    def choose(self, embedding: Tensor) -> Tensor:
        """Choose actions ``(B, A)`` at ``embedding (B, *D)``; whoever executes others says so by :meth:`remember`."""
        if self.goal is None:
            raise ValueError("a goal must be set before acting, got none")
        if self.mode == "1":
            assert self.policy is not None
            return self.bounds.project(self.policy.sample(embedding, self.goal, self._generator))
        assert self.mpc is not None
        assert self.cost is not None
        proposals = None
        if self.policy is not None and self.mpc.needs_plan:
            proposals = self._proposal(embedding)
        cost_fn = imagined_cost(self.model, self.cost, embedding, self.goal, self._memory)
        return self.mpc.act(cost_fn, len(embedding), proposals=proposals)

    def remember(self, embedding: Tensor, action: Tensor) -> None:
        """Take into the short-term memory, if there is one, that ``action (B, A)`` is executed at ``embedding``."""
        if self._remember is not None:
            self._memory = self._remember(self._memory, embedding, action)

    def _proposal(self, embedding: Tensor) -> Tensor:
        """Let the policy act in imagination, ``(B, 1, H, A)``."""
        assert self.policy is not None
        assert self.mpc is not None
        assert self.goal is not None
        memory, actions = self._memory, []
        for _ in range(self.mpc.config.horizon):
            action = self.bounds.project(self.policy(embedding, self.goal))
            actions.append(action)
            after = self.model.rollout(embedding, action[:, None], memory=memory)[:, 0]
            if self._remember is not None:
                memory = self._remember(memory, embedding, action)
            embedding = after
        return torch.stack(actions, dim=1)[:, None]


def _never_planned(actions: Tensor) -> Tensor:  # noqa: ARG001
    raise AssertionError("the queue was not empty")
