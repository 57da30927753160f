import pytest
import torch

from worldmodel.costs import Cost
from worldmodel.critic import Critic, CriticConfig
from worldmodel.training import FitConfig, fit
from worldmodel.value_iteration import ValueIterationConfig, ValueIterationObjective

LOW, HIGH = torch.tensor([-1.0]), torch.tensor([1.0])


class HowFar(Cost):
    """The distance to the goal, summed over the steps."""

    def forward(self, embeddings, actions, goal):
        return (embeddings - goal[..., None, :]).abs().sum(-1).sum(-1)


def walk(embedding, actions):
    """A point on a line: an action moves it by up to .1."""
    return embedding[:, None] + 0.1 * actions.cumsum(1)


def objective(config, critic=None, project=lambda action: action.clamp(LOW, HIGH), batch_size=256, seed=0):
    critic = critic or Critic((1,), CriticConfig(head="mlp", hidden_dims=(64, 64), target_rate=0.05))
    return ValueIterationObjective(critic, walk, HowFar(), project, LOW, HIGH, config, batch_size, seed)


def batch(seed=0, num=256):
    generator = torch.Generator().manual_seed(seed)
    return {key: 2 * torch.rand(num, 1, generator=generator) - 1 for key in ("start", "goal")}


def test_without_a_future_a_backup_is_the_cost_of_the_best_candidate():
    config = ValueIterationConfig(num_candidates=400, hold=2, discount=0.0)
    pairs = batch()
    found, ahead = objective(config).backup(pairs["start"], pairs["goal"], step=3)
    torch.testing.assert_close(
        found, HowFar()(torch.stack([(pairs["start"] + ahead) / 2, ahead], 1), None, pairs["goal"])
    )
    away = (pairs["start"] - pairs["goal"]).abs()[:, 0]
    best = torch.where(away > 0.2, 2 * away - 0.3, torch.zeros(()))  # .1, then .2 nearer
    is_far = away > 0.2
    torch.testing.assert_close(found[is_far], best[is_far])  # extreme candidates are drawn often
    assert (found[~is_far] <= 0.25).all()


def test_what_comes_after_a_plan_is_the_larger_of_two_values_scaled_and_discounted_by_its_steps():
    critic = Critic((1,), CriticConfig(head="mlp", hidden_dims=(4,), scale=40.0))
    module = objective(ValueIterationConfig(num_candidates=1, hold=2, discount=0.9), critic)
    for network, value in zip(module.target_head.networks, (0.25, 0.75), strict=True):
        torch.nn.init.zeros_(network[-1].weight)
        torch.nn.init.constant_(network[-1].bias, value)
    pairs = batch(num=20)
    found, ahead = module.backup(pairs["start"], pairs["goal"], step=0)
    middle = pairs["start"] + (ahead - pairs["start"]) / 2
    paid = HowFar()(torch.stack([middle, ahead], 1), None, pairs["goal"])
    torch.testing.assert_close(found, paid + 0.9**2 * 40.0 * 0.75)


def test_values_are_the_discounted_future_of_the_cost(tmp_path):
    torch.manual_seed(0)
    module = objective(ValueIterationConfig(num_candidates=8, hold=1, discount=0.9))
    config = FitConfig(num_steps=1000, lr=3e-3)

    def pairs(step):
        return batch(seed=step + 1)

    fit(module, pairs, {"value": 1.0}, config, run=tmp_path, stage="critic", after_step=module.update_target)
    away = torch.tensor([0.0, 0.4, 0.8, 1.6])
    steps = torch.arange(1, 200)
    left = (away[:, None] - 0.1 * steps).clamp_min(0.0)
    expected = (0.9 ** (steps - 1) * left).sum(1)  # who goes straight there
    start, goal = torch.full((4, 1), 0.8), (0.8 - away)[:, None]
    with torch.no_grad():
        found = module.critic.distance(start, goal)
    torch.testing.assert_close(found, expected, atol=0.25, rtol=0.1)


def test_values_are_a_function_of_the_step_and_train_the_critic_alone():
    pairs, config = batch(num=32), ValueIterationConfig()
    one, two = (objective(config, batch_size=32) for _ in range(2))
    two.critic.load_state_dict(one.critic.state_dict())
    two.target_head.load_state_dict(one.target_head.state_dict())
    assert torch.equal(one(pairs, 0)["value"], two(pairs, 0)["value"])
    assert not torch.equal(one(pairs, 5)["value"], one(pairs, 6)["value"])
    one(pairs, 5)["value"].backward()
    assert all(parameter.grad is not None for parameter in one.critic.parameters())
    assert all(parameter.grad is None for parameter in one.target_head.parameters())
    before = one.target_head.networks[0][0].weight.clone()
    one.critic.head.networks[0][0].weight.data.add_(1.0)
    one.update_target()
    torch.testing.assert_close(one.target_head.networks[0][0].weight, before + one.critic.config.target_rate)


def test_starts_are_carried_on_to_where_the_best_candidate_led():
    pairs = batch(num=200)
    module = objective(ValueIterationConfig(carried=0.5, num_candidates=50), batch_size=200)
    module(pairs, 0)
    _, ahead = module.backup(pairs["start"], pairs["goal"], 0)
    carried, goals = module.carried.start, module.carried.goal
    assert carried.shape == (100, 1)
    reached = torch.cat([ahead, pairs["start"][:100]])
    aims = torch.cat([pairs["goal"], pairs["goal"][:100]])
    nearest = (carried - reached.T).abs() + (goals - aims.T).abs()
    assert (nearest.amin(1) == 0).all()  # each with the goal that it had
    is_led = (nearest[:, :200] == 0).any(1)
    assert 80 <= int(is_led.sum()) < 100  # the others begin afresh
    resumed = objective(ValueIterationConfig(carried=0.5, num_candidates=50), batch_size=200)
    resumed.load_state_dict(module.state_dict())
    assert torch.equal(
        resumed(batch(seed=1, num=200), 1)["value"], module(batch(seed=1, num=200), 1)["value"]
    )
    assert objective(ValueIterationConfig(carried=0.0)).carried.start.shape == (0, 1)


def test_candidates_keep_the_bounds():
    seen = []

    def watch(embedding, actions):
        seen.append(actions)
        return walk(embedding, actions[..., :1])

    config = ValueIterationConfig(num_candidates=50, hold=3)
    low, high = torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 4.0])  # the second is not around 0
    module = ValueIterationObjective(
        Critic((1,), CriticConfig(head="mlp")),
        watch,
        HowFar(),
        lambda action: action.clamp(max=3.0),
        low,
        high,
        config,
        batch_size=10,
        seed=0,
    )
    module.backup(*batch(num=10).values(), step=0)
    assert seen[0].shape == (500, 3, 2)
    assert torch.equal(seen[0].amin((0, 1)), torch.tensor([-1.0, 1.0]))
    assert torch.equal(seen[0].amax((0, 1)), torch.tensor([1.0, 3.0]))
    assert (seen[0] == seen[0][:, :1]).all()


def test_a_critic_that_cannot_be_trained_so_is_one_sentence():
    with pytest.raises(ValueError, match="must be mlp, got 'metric'"):
        objective(ValueIterationConfig(), Critic((1,)))
    with pytest.raises(ValueError, match="action bounds of value iteration must be finite, got low"):
        ValueIterationObjective(
            Critic((1,), CriticConfig(head="mlp")),
            walk,
            HowFar(),
            torch.nn.Identity(),
            LOW,
            HIGH / 0,
            ValueIterationConfig(),
            4,
            0,
        )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_candidates": 0}, "num_candidates must be >= 1, got 0"),
        ({"hold": 0}, "hold must be >= 1, got 0"),
        ({"carried": 1.0}, r"carried must be in \[0, 1\), got 1.0"),
        ({"discount": 1.0}, r"discount must be in \[0, 1\), got 1.0"),
        ({"cost": "task+critic"}, "must not be the critic's own, got 'task"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ValueIterationConfig(**settings)
