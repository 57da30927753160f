import pytest
import torch
from torch import nn

from planners import ActionBounds, make_planner
from planners.agent import Agent, imagined_cost
from planners.mpc import MPC, MPCConfig
from planners.policy import GoalPolicy, ImaginationObjective, imagine

BOUNDS = ActionBounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]), 1.0)


class PointModel:
    """A world whose embedding is a position and whose actions are displacements; counts its encodings."""

    def __init__(self):
        self.num_encoded = 0

    def encode(self, obs):
        self.num_encoded += 1
        return obs["position"]

    def rollout(self, embedding, actions, latents=None, memory=None):
        assert latents is None
        drift = 0.0 if memory is None else memory.drift[:, None]
        return embedding[:, None] + actions.cumsum(dim=1) + drift


def last_distance(embeddings, actions, goal):
    return (embeddings[..., -1, :] - goal).norm(dim=-1)


def summed_distance(embeddings, actions, goal):
    return (embeddings - goal[..., None, :]).norm(dim=-1).sum(dim=-1)


def moved(embedding, action, memory):
    """One step of a world whose memory counts the steps."""
    return embedding + action, (memory or 0) + 1


def make_policy(max_norm=1.0):
    torch.manual_seed(0)
    return GoalPolicy((2,), [-1.0, -1.0], [1.0, 1.0], max_norm, hidden_dims=(32,))


def mpc(**changes):
    config = MPCConfig(**{"horizon": 4, "init_std": 0.5, **changes})
    planner = make_planner("cem", num_samples=64, num_elites=8, num_iters=3)
    return MPC(planner, BOUNDS, config, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("max_norm", [1.0, None])
def test_a_policy_keeps_its_bounds_however_far_the_embedding(max_norm):
    policy = make_policy(max_norm)
    bounds = ActionBounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]), max_norm)
    actions = policy(1e4 * torch.randn(500, 2), 1e4 * torch.randn(500, 2))
    assert bounds.contains(actions).all()
    assert bounds.contains(policy.bounds.project(actions)).all()


def test_a_policy_of_a_shifted_box_reaches_both_ends():
    policy = GoalPolicy((1,), [2.0], [6.0], hidden_dims=())
    with torch.no_grad():
        policy.layers[0].weight.copy_(torch.tensor([[100.0, 0.0]]))
        policy.layers[0].bias.zero_()
        low, middle, high = (policy(torch.tensor([[x]]), torch.zeros(1, 1)) for x in (-1.0, 0.0, 1.0))
    assert (float(low), float(middle), float(high)) == (2.0, 4.0, 6.0)


def test_a_policy_draws_around_what_it_chooses_and_within_its_bounds():
    policy = GoalPolicy((2,), [-2.0, -2.0], [2.0, 2.0], 2.0, hidden_dims=(32,), noise=0.1)
    embedding, goal = torch.randn(2, 2).repeat(4000, 1), torch.zeros(8000, 2)
    with torch.no_grad():
        policy.layers[-1].weight.mul_(0.1)  # small actions: the ball does not cut the noise
        chosen = policy(embedding, goal)
        drawn = policy.sample(embedding, goal, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, policy.sample(embedding, goal, torch.Generator().manual_seed(0)))
        torch.testing.assert_close((drawn - chosen).std(dim=0), torch.full((2,), 0.2), atol=0.01, rtol=0)
        torch.testing.assert_close((drawn - chosen).mean(dim=0), torch.zeros(2), atol=0.01, rtol=0)
        policy.layers[-1].weight.mul_(1e3)
        far = policy.sample(embedding, goal)
    assert policy.bounds.contains(far).all()
    silent = make_policy()
    assert torch.equal(silent.sample(embedding, goal), silent(embedding, goal))
    with pytest.raises(ValueError, match="noise of a policy must be a number >= 0, got -1"):
        GoalPolicy((2,), [-1.0], [1.0], noise=-1)


def test_mode_1_acts_with_the_policy_s_noise_and_a_proposal_is_without():
    policy = GoalPolicy((2,), [-1.0, -1.0], [1.0, 1.0], 1.0, hidden_dims=(32,), noise=0.2)
    obs = {"position": torch.randn(6, 2)}

    def agent(mode, seed):
        generator = torch.Generator().manual_seed(seed)
        one = Agent(
            PointModel(), BOUNDS, mode=mode, policy=policy, mpc=mpc(), cost=last_distance, generator=generator
        )
        one.set_goal({"position": torch.zeros(6, 2)})
        return one

    first, again, other = (agent("1", seed).act(obs) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    proposals = [agent("2", seed)._proposal(obs["position"]) for seed in (1, 2)]
    assert torch.equal(*proposals)


def test_a_policy_with_convolutions_reads_maps_as_maps():
    policy = GoalPolicy((3, 4, 4), [-1.0, -1.0], [1.0, 1.0], 1.0, hidden_dims=(8,), conv_channels=(5, 6))
    convolutions = [layer for layer in policy.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(6, 5), (5, 6)]
    assert policy(torch.randn(7, 3, 4, 4), torch.randn(7, 3, 4, 4)).shape == (7, 2)
    with pytest.raises(ValueError, match=r"must act on a feature map, got embeddings of shape \(2,\)"):
        GoalPolicy((2,), [-1.0], [1.0], conv_channels=(4,))


class Difference(nn.Module):
    num_features = 2

    def forward(self, start, goal):
        return goal - start


def test_a_policy_reads_what_its_reader_makes_of_standardised_embeddings():
    policy = GoalPolicy((2,), [-1.0, -1.0], [1.0, 1.0], hidden_dims=(8,), reader=Difference())
    policy.set_statistics(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    here, there = torch.randn(2, 5, 2)
    moved = torch.tensor([0.3, -0.7])
    torch.testing.assert_close(policy(here, there), policy(here + moved, there + moved))
    torch.testing.assert_close(
        policy(here, there), policy.layers((there - here) / torch.tensor([2.0, 4.0])).tanh()
    )
    with pytest.raises(
        ValueError, match=r"conv_channels must be empty in a policy with a reader, got \(4,\)"
    ):
        GoalPolicy((1, 2, 2), [-1.0], [1.0], conv_channels=(4,), reader=Difference())


def test_a_policy_refuses_an_open_box():
    with pytest.raises(ValueError, match="action bounds of a policy must be finite"):
        GoalPolicy((2,), [-float("inf")], [1.0])


def test_imagination_alternates_policy_and_model():
    policy = make_policy()
    start, goal = torch.randn(5, 2), torch.randn(5, 2)
    embeddings, actions = imagine(policy, moved, start, goal, 3)
    torch.testing.assert_close(embeddings, start[:, None] + actions.cumsum(dim=1))
    torch.testing.assert_close(actions[:, 1], policy(embeddings[:, 0], goal))


def test_imagination_hands_the_memory_from_step_to_step():
    seen = []

    def step(embedding, action, memory):
        seen.append(memory)
        return moved(embedding, action, memory)

    imagine(make_policy(), step, torch.zeros(1, 2), torch.ones(1, 2), 3)
    assert seen == [None, 1, 2]


def test_a_policy_trained_in_imagination_reaches_goals():
    policy = make_policy()
    objective = ImaginationObjective(policy, moved, last_distance, horizon=3)
    assert len(list(objective.parameters())) == len(list(policy.parameters()))
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        batch = {key: torch.randn(128, 2, generator=generator) for key in ("start", "goal")}
        loss = objective(batch)["imagined_cost"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    start, goal = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator)
    with torch.no_grad():
        embeddings, _ = imagine(policy, moved, start, goal, 4)
    assert (embeddings[:, -1] - goal).norm(dim=-1).mean() < 0.2 * (start - goal).norm(dim=-1).mean()


def test_imagined_cost_is_the_cost_of_each_candidates_rollout():
    model, start, goal = PointModel(), torch.randn(3, 2), torch.randn(3, 2)
    actions = torch.randn(3, 5, 4, 2)
    expected = (start[:, None] + actions.sum(dim=2) - goal[:, None]).norm(dim=-1)
    torch.testing.assert_close(imagined_cost(model, last_distance, start, goal)(actions), expected)


def run(agent, start, goal, steps=12):
    agent.set_goal({"position": goal})
    position = start
    for _ in range(steps):
        action = agent.act({"position": position})
        assert BOUNDS.contains(action).all()
        position = position + action
    return position


def test_mode_2_reaches_the_goal_and_looks_only_when_it_plans():
    model = PointModel()
    agent = Agent(model, BOUNDS, mode="2", mpc=mpc(execute=2), cost=summed_distance)
    generator = torch.Generator().manual_seed(0)
    start, goal = 3 * torch.randn(2, 6, 2, generator=generator)
    end = run(agent, start, goal, steps=24)
    assert ((end - goal).norm(dim=-1) < 0.3).all()
    assert model.num_encoded == 1 + 12  # the goals once, then one look per plan of two steps


def test_mode_2_starts_from_the_policys_proposal():
    class Straight(nn.Module):
        def forward(self, embedding, goal):
            return goal - embedding

    start, goal = torch.zeros(4, 2), torch.tensor([[2.0, 0.0], [0.0, -3.0], [1.5, 1.5], [-2.0, 1.0]])
    blind = mpc(init_std=1e-6)
    planner_alone = Agent(PointModel(), BOUNDS, mode="2", mpc=blind, cost=last_distance)
    with_policy = Agent(
        PointModel(), BOUNDS, mode="2", mpc=mpc(init_std=1e-6), cost=last_distance, policy=Straight()
    )
    for agent in (planner_alone, with_policy):
        agent.set_goal({"position": goal})
    assert planner_alone.act({"position": start}).norm(dim=-1).max() < 0.7
    torch.testing.assert_close(with_policy.act({"position": start}), BOUNDS.project(goal), atol=0.1, rtol=0.1)


def test_mode_1_is_the_projected_policy():
    policy = make_policy()
    agent = Agent(PointModel(), BOUNDS, mode="1", policy=policy)
    start, goal = torch.randn(4, 2), torch.randn(4, 2)
    agent.set_goal({"position": goal})
    with torch.no_grad():
        expected = BOUNDS.project(policy(start, goal))
    assert torch.equal(agent.act({"position": start}), expected)


def test_episodes_advance_alike_alone_and_together():
    start, goal = torch.randn(5, 2), torch.randn(5, 2)
    together = Agent(PointModel(), BOUNDS, mode="2", mpc=mpc(), cost=last_distance)
    end = run(together, start, goal, steps=3)
    for row in range(5):
        alone = Agent(PointModel(), BOUNDS, mode="2", mpc=mpc(), cost=last_distance)
        torch.testing.assert_close(run(alone, start[row : row + 1], goal[row : row + 1], 3)[0], end[row])


class Drift:
    """A memory that holds the mean of the actions taken so far."""

    def __init__(self, drift, valid):
        self.drift, self.valid = drift, valid

    def repeat(self, num):
        return Drift(self.drift.repeat_interleave(num, 0), self.valid.repeat_interleave(num, 0))

    def forget(self, mask):
        return Drift(torch.where(mask[:, None], 0.0, self.drift), self.valid & ~mask[:, None])


def test_the_memory_is_filled_by_acting_reaches_the_planner_and_is_forgotten():
    def remember(memory, embedding, action):
        return Drift(memory.drift + action, torch.ones_like(memory.valid))

    def empty(num):
        return Drift(torch.zeros(num, 2), torch.zeros(num, 1, dtype=torch.bool))

    agent = Agent(
        PointModel(),
        BOUNDS,
        mode="2",
        mpc=mpc(),
        cost=last_distance,
        empty_memory=empty,
        remember=remember,
    )
    agent.set_goal({"position": torch.ones(2, 2)})
    first = agent.act({"position": torch.zeros(2, 2)})
    torch.testing.assert_close(agent._memory.drift, first)
    second = agent.act({"position": torch.zeros(2, 2)})
    torch.testing.assert_close(agent._memory.drift, first + second)
    agent.reset(torch.tensor([True, False]))
    assert agent._memory.drift[0].abs().sum() == 0
    torch.testing.assert_close(agent._memory.drift[1], (first + second)[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mode": "3"}, "mode must be '1' or '2', got '3'"),
        ({"mode": "1"}, "mode 1 must have a policy"),
        ({"mode": "2"}, "mode 2 must have an mpc and a cost"),
        ({"mode": "1", "policy": make_policy(), "remember": print}, "must be given together"),
    ],
)
def test_an_incomplete_agent_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Agent(PointModel(), BOUNDS, **arguments)


def test_acting_without_a_goal_or_with_another_number_of_rows_is_one_sentence():
    agent = Agent(PointModel(), BOUNDS, mode="1", policy=make_policy())
    with pytest.raises(ValueError, match="a goal must be set before acting"):
        agent.act({"position": torch.zeros(1, 2)})
    agent.set_goal({"position": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"as many rows as goals \(2\), got 3"):
        agent.act({"position": torch.zeros(3, 2)})


def test_an_imagination_of_no_steps_is_one_sentence():
    with pytest.raises(ValueError, match="horizon must be >= 1, got 0"):
        ImaginationObjective(make_policy(), moved, last_distance, horizon=0)
