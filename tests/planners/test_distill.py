"""Compiling a planner into a policy: what is asked where, what it is trained on, and that it is learned."""

import pytest
import torch

from planners.distill import (
    DemonstrationBatches,
    Demonstrations,
    HindsightActions,
    ImitationObjective,
    demonstrate,
)
from planners.policy import GoalPolicy


def make_policy(half_width=2.0):
    torch.manual_seed(0)
    return GoalPolicy((2,), [-half_width] * 2, [half_width] * 2, None, hidden_dims=(32,))


class PointWorld:
    """Positions that actions move; embeddings are positions."""

    def __init__(self, num, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.position = 4 * torch.rand(num, 2, generator=generator) - 2
        self.goal = 4 * torch.rand(num, 2, generator=generator) - 2

    def observe(self):
        return self.position.clone()

    def step(self, embedding, action):
        assert torch.equal(embedding, self.position)
        self.position = self.position + action

    def teacher(self, embedding):
        return (self.goal - embedding).clamp(-0.5, 0.5)


def test_the_teacher_acts_unless_a_learner_does_and_is_asked_at_every_state():
    alone, taught = PointWorld(5), PointWorld(5)
    first = demonstrate(alone.observe, alone.step, alone.teacher, alone.goal, 20)
    steps = []
    second = demonstrate(
        taught.observe,
        taught.step,
        taught.teacher,
        taught.goal,
        20,
        learner=lambda embedding, goal: torch.full_like(embedding, 0.1),
        on_step=steps.append,
    )
    assert (alone.position - alone.goal).abs().max() < 1e-6
    torch.testing.assert_close(taught.position, PointWorld(5).position + 2.0)
    assert steps == list(range(1, 21))
    for asked, world in ((first, alone), (second, taught)):
        assert len(asked) == 100
        torch.testing.assert_close(asked.goal, world.goal.repeat(20, 1))
        torch.testing.assert_close(asked.action, (asked.goal - asked.embedding).clamp(-0.5, 0.5))
    torch.testing.assert_close(second.embedding[5:10] - second.embedding[:5], torch.full((5, 2), 0.1))
    sparse_world = PointWorld(5)
    sparse = demonstrate(
        sparse_world.observe,
        sparse_world.step,
        sparse_world.teacher,
        sparse_world.goal,
        20,
        learner=lambda embedding, goal: torch.full_like(embedding, 0.1),
        ask_every=4,
    )
    assert torch.equal(sparse.embedding, second.embedding.view(20, 5, 2)[::4].flatten(0, 1))
    assert torch.equal(sparse.action, second.action.view(20, 5, 2)[::4].flatten(0, 1))
    assert torch.equal(sparse.goal, sparse_world.goal.repeat(5, 1))
    assert len(first.join(second)) == 200
    assert torch.equal(first.join(second).action[100:], second.action)


def test_a_policy_learns_what_the_teacher_does():
    world = PointWorld(400)
    asked = demonstrate(world.observe, world.step, world.teacher, world.goal, 8)
    policy, batches = make_policy(), DemonstrationBatches(asked, 128, seed=1)
    objective = ImitationObjective(policy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for step in range(400):
        loss = objective(batches(step))["imitation"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])
    fresh = PointWorld(50, seed=7)
    for _ in range(20):
        with torch.no_grad():
            fresh.step(fresh.position, policy(fresh.position, fresh.goal))
    assert (fresh.position - fresh.goal).norm(dim=-1).median() < 0.2


def test_the_error_is_counted_in_half_widths_of_the_bounds():
    policy = make_policy(half_width=2.0)
    start, goal = torch.randn(6, 2), torch.randn(6, 2)
    with torch.no_grad():
        action = policy(start, goal) + torch.tensor([1.0, -1.0])
    loss = ImitationObjective(policy)({"start": start, "goal": goal, "action": action})["imitation"]
    assert loss.item() == pytest.approx(0.25)


def test_batches_are_a_function_of_seed_and_step():
    asked = Demonstrations(torch.randn(50, 2), torch.randn(50, 2), torch.randn(50, 2))
    one, same, other = (DemonstrationBatches(asked, 16, seed) for seed in (3, 3, 4))
    assert torch.equal(one(5)["action"], same(5)["action"])
    assert not torch.equal(one(5)["action"], other(5)["action"])
    assert not torch.equal(one(5)["action"], one(6)["action"])


def test_hindsight_goals_are_later_frames_of_the_same_episode_and_actions_those_taken():
    offsets = torch.tensor([0, 4, 5, 15])  # the second episode has no step
    rows = torch.arange(15.0)
    batches = HindsightActions(
        rows[:, None].repeat(1, 2).half(), 100 + rows[:, None], offsets, max_lag=3, batch_size=4000, seed=0
    )
    batch = batches(2)
    start, goal = batch["start"][:, 0].contiguous(), batch["goal"][:, 0].contiguous()
    assert batch["start"].dtype == torch.float32
    torch.testing.assert_close(batch["action"][:, 0], 100 + start)
    episode = torch.bucketize(start, offsets[1:].float(), right=True)
    assert torch.equal(episode, torch.bucketize(goal, offsets[1:].float(), right=True))
    assert set((goal - start).tolist()) == {1.0, 2.0, 3.0}
    assert set(start.tolist()) == {0.0, 1.0, 2.0, *map(float, range(5, 14))}
    with pytest.raises(ValueError, match="at least one step, got none"):
        HindsightActions(
            rows[:2, None], rows[:2, None], torch.tensor([0, 1, 2]), max_lag=1, batch_size=2, seed=0
        )
