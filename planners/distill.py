"""Compile Mode 2 into Mode 1: a policy learns to do at once what the planner takes many imagined futures to find.

Two teachers for one goal-conditioned policy:

* the planner (:func:`demonstrate`): along closed-loop episodes the planner says what it would do. Where there is no
  policy yet it also acts; from then on the policy acts and the planner only corrects, so that the policy is taught on
  the states that it brings about itself (DAgger; Ross, Gordon & Bagnell 2011, arXiv 1011.0686);
* the data themselves (:class:`HindsightActions`): the action that was taken where an episode went on to the goal some
  steps later, an inverse dynamics over many steps (Ghosh et al. 2019, arXiv 1912.06088). Nothing is planned.

The third way, through the gradient of the world model, is :class:`planners.policy.ImaginationObjective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from planners.policy import GoalPolicy


@dataclass(frozen=True)
class Demonstrations:
    """What a teacher does, ``M`` times.

    Attributes:
        embedding: ``(M, *D)`` where it was asked.
        goal: ``(M, *D)``.
        action: ``(M, A)`` what it answered [action units].
    """

    embedding: Tensor
    goal: Tensor
    action: Tensor

    def __len__(self) -> int:
        return len(self.action)

    def join(self, other: Demonstrations) -> Demonstrations:
        """Return both: DAgger trains on all rounds."""
        return Demonstrations(
            torch.cat([self.embedding, other.embedding]),
            torch.cat([self.goal, other.goal]),
            torch.cat([self.action, other.action]),
        )


@torch.no_grad()
def demonstrate(
    observe: Callable[[], Tensor],
    step: Callable[[Tensor, Tensor], None],
    teacher: Callable[[Tensor], Tensor],
    goal: Tensor,
    num_steps: int,
    *,
    learner: Callable[[Tensor, Tensor], Tensor] | None = None,
    ask_every: int = 1,
    on_step: Callable[[int], None] | None = None,
) -> Demonstrations:
    """Ask the teacher along closed-loop episodes of ``B`` worlds that advance together.

    Args:
        observe: embeddings ``(B, *D)`` of the present states.
        step: executes actions ``(B, A)`` in the states of the embeddings ``(B, *D)``: ``step(embedding, action)``.
        teacher: embeddings ``(B, *D)`` to the planner's actions ``(B, A)``.
        goal: ``(B, *D)``.
        num_steps: length of the episodes, ``T``.
        learner: acts in the teacher's place, ``(embedding, goal) -> action``; None: the teacher acts.
        ask_every: steps from one question to the next where the learner acts: neighbouring states teach about the same,
            and the teacher is what takes the time.
        on_step: called after each step with its number.

    Returns:
        ``B`` demonstrations for each step with a question, step after step.
    """
    embeddings, actions = [], []
    for number in range(num_steps):
        embedding = observe()
        if learner is None or number % ask_every == 0:
            embeddings.append(embedding)
            actions.append(teacher(embedding))
        step(embedding, actions[-1] if learner is None else learner(embedding, goal))
        if on_step is not None:
            on_step(number + 1)
    goals = goal[None].expand(len(actions), *goal.shape).flatten(0, 1)
    return Demonstrations(torch.cat(embeddings), goals, torch.cat(actions))


class DemonstrationBatches:
    """Random batches of demonstrations.

    Args:
        demonstrations: all of them.
        batch_size: per batch.
        seed: batches are a function of ``(seed, step)``.
    """

    def __init__(self, demonstrations: Demonstrations, batch_size: int, seed: int) -> None:
        self.demonstrations, self.batch_size, self.seed = demonstrations, batch_size, seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ``start`` and ``goal (M, *D)`` and ``action (M, A)`` of the batch of ``step``."""
        ours = self.demonstrations
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        rows = torch.randint(len(ours), (self.batch_size,), generator=generator).to(ours.action.device)
        return {"start": ours.embedding[rows], "goal": ours.goal[rows], "action": ours.action[rows]}


class HindsightActions:
    """Batches of the data's own actions, each with a later frame of its episode as the goal.

    Args:
        embeddings: ``(rows, *D)``, all frames, episode after episode.
        actions: ``(rows, A)`` [action units]; that of an episode's last row is not read.
        offsets: ``(E + 1,)`` first row of each episode, and the number of rows.
        max_lag: a goal lies 1 .. this many steps ahead, as far as the episode goes.
        batch_size: per batch.
        seed: batches are a function of ``(seed, step)``.

    Raises:
        ValueError: no episode has a step.
    """

    def __init__(
        self,
        embeddings: Tensor,
        actions: Tensor,
        offsets: Tensor,
        *,
        max_lag: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.embeddings, self.actions = embeddings, actions
        self.max_lag, self.batch_size, self.seed = max_lag, batch_size, seed
        last = torch.repeat_interleave(offsets[1:].cpu() - 1, offsets.cpu().diff())
        rows = torch.arange(len(last))
        self.starts, self.last = rows[rows < last], last
        if len(self.starts) == 0:
            raise ValueError("hindsight must have an episode of at least one step, got none")

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ``start`` and ``goal (M, *D)`` and ``action (M, A)`` of the batch of ``step``."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        start = self.starts[torch.randint(len(self.starts), (self.batch_size,), generator=generator)]
        lag = torch.randint(1, self.max_lag + 1, (self.batch_size,), generator=generator)
        goal = start + lag.minimum(self.last[start] - start)
        device = self.embeddings.device
        return {
            "start": self.embeddings[start.to(device)].float(),
            "goal": self.embeddings[goal.to(device)].float(),
            "action": self.actions[start.to(device)],
        }


class ImitationObjective(nn.Module):
    """Squared error between the policy's actions and a teacher's, in half widths of the bounds.

    Args:
        policy: the policy to train.
    """

    def __init__(self, policy: GoalPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``{"imitation": error}`` for ``start``, ``goal`` and ``action``; ``step`` is not read."""
        error = self.policy(batch["start"], batch["goal"]) - batch["action"]
        return {"imitation": (error / self.policy.get_buffer("half_width")).square().mean()}
