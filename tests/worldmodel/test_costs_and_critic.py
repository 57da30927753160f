import pytest
import torch

from tests.worldmodel.factories import make
from worldmodel.checkpoint import CheckpointError, save_jepa
from worldmodel.costs import ActionEffort, LastDistance, SummedDistance, WeightedSum
from worldmodel.critic import (
    Critic,
    CriticConfig,
    CriticObjective,
    GoalPairs,
    load_critic,
    save_critic,
)
from worldmodel.probing import distance_rmse, fit_linear_probe
from worldmodel.readout import Readout
from worldmodel.training import FitConfig, fit

B, N, H, D, A = 3, 5, 4, 6, 2


def futures(shape=(D,)):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(B, N, H, *shape, generator=generator)
    actions = torch.randn(B, N, H, A, generator=generator)
    return embeddings, actions, torch.randn(B, 1, *shape, generator=generator)


def test_costs_are_their_formulas():
    embeddings, actions, goal = futures()
    squared = (embeddings - goal[:, :, None]).square().mean(dim=-1)
    torch.testing.assert_close(LastDistance()(embeddings, actions, goal), squared[..., -1])
    torch.testing.assert_close(SummedDistance()(embeddings, actions, goal), squared.sum(dim=-1))
    effort = actions.square().sum(dim=-1).mean(dim=-1)
    torch.testing.assert_close(ActionEffort()(embeddings, actions, goal), effort)


def test_costs_add_and_scale():
    embeddings, actions, goal = futures()
    total = LastDistance() + 0.5 * ActionEffort() * 2.0
    expected = LastDistance()(embeddings, actions, goal) + ActionEffort()(embeddings, actions, goal)
    torch.testing.assert_close(total(embeddings, actions, goal), expected)
    with pytest.raises(ValueError, match="at least one cost"):
        WeightedSum([])


@pytest.mark.parametrize(
    "cost",
    [LastDistance(), SummedDistance(), ActionEffort(), Critic((D,)), Critic((D,), CriticConfig(head="mlp"))],
)
def test_costs_of_a_batch_are_those_of_its_rows(cost):
    embeddings, actions, goal = futures()
    together = cost(embeddings, actions, goal)
    assert together.shape == (B, N)
    for b in range(B):
        for n in range(N):
            alone = cost(embeddings[b : b + 1, n], actions[b : b + 1, n], goal[b])
            torch.testing.assert_close(alone[0], together[b, n])


@pytest.mark.parametrize("make_cost", [LastDistance, SummedDistance, lambda: Critic((2, 3))])
def test_a_map_costs_what_its_flat_vector_costs(make_cost):
    cost = make_cost()
    embeddings, actions, goal = futures((2, 3))
    flat = cost(embeddings.flatten(3), actions, goal.flatten(2))
    torch.testing.assert_close(cost(embeddings, actions, goal), flat)


@pytest.mark.parametrize("head", ["metric", "quasimetric"])
def test_a_critic_is_a_metric_but_for_the_symmetry_where_it_need_not_be(head):
    critic = Critic((D,), CriticConfig(head=head))
    a, b, c = (torch.randn(50, D) for _ in range(3))
    with torch.no_grad():
        assert (critic.distance(a, a) < 1e-3).all()
        there, back = critic.distance(a, b), critic.distance(b, a)
        assert torch.allclose(there, back, rtol=1e-4) == (head == "metric")
        assert (critic.distance(a, c) <= critic.distance(a, b) + critic.distance(b, c) + 1e-4).all()


def test_a_critic_that_reads_a_readout_has_one_and_keeps_it(tmp_path):
    config = CriticConfig(head="mlp", reads="readout", hidden_dims=(8,))
    with pytest.raises(ValueError, match="a critic that reads a readout must be given one, got None"):
        Critic((2, 3), config)
    readout = Readout(6, 4)
    critic = Critic((2, 3), config, readout=readout)
    assert not any(parameter.requires_grad for parameter in critic.readout.parameters())
    save_critic(tmp_path / "critic", critic)
    loaded = load_critic(tmp_path / "critic")
    embeddings, actions, goal = futures((2, 3))
    torch.testing.assert_close(loaded(embeddings, actions, goal), critic(embeddings, actions, goal))
    with pytest.raises(ValueError, match="reads must be embedding or readout, got 'pixels'"):
        CriticConfig(reads="pixels")
    with pytest.raises(ValueError, match="reads must be embedding where the head is a value map"):
        CriticConfig(reads="readout", head="value_map")


def corridor(num_episodes=200, length=31, size=20, seed=0):
    """Random walks on a line of 20 cells, one-hot embeddings: the steps to go are known."""
    generator = torch.Generator().manual_seed(seed)
    cell = torch.randint(size, (num_episodes,), generator=generator)
    heading = torch.randint(2, (num_episodes,), generator=generator) * 2 - 1
    cells = [cell]
    for _ in range(length - 1):
        turn = torch.rand(num_episodes, generator=generator) < 0.15
        heading = torch.where(turn, -heading, heading)
        cell = (cell + heading).clamp(0, size - 1)
        cells.append(cell)
    embeddings = torch.nn.functional.one_hot(torch.stack(cells, dim=1).flatten(), size).float()
    return embeddings, torch.arange(num_episodes + 1) * length


@pytest.mark.slow
def test_the_critic_learns_the_steps_of_a_corridor(tmp_path):
    torch.manual_seed(0)
    embeddings, offsets = corridor()
    config = CriticConfig(hidden_dims=(64,), target_rate=0.05, hindsight_mean=8.0)
    critic = Critic((20,), config)
    objective = CriticObjective(critic)
    pairs = GoalPairs(embeddings, offsets, config, 256, seed=0)
    fit(
        objective,
        pairs,
        {"steps_to_go": 1.0},
        FitConfig(num_steps=1200, lr=3e-3),
        run=tmp_path,
        stage="critic",
        after_step=objective.update_target,
    )
    cells = torch.eye(20)
    with torch.no_grad():
        learned = critic.distance(cells[:, None], cells[None])
    true = (torch.arange(20)[:, None] - torch.arange(20)[None]).abs().float()
    correlation = torch.corrcoef(torch.stack([learned.flatten(), true.flatten()]))[0, 1]
    assert correlation > 0.98
    assert (learned - true).abs().mean() < 2.5


def test_pairs_stay_inside_episodes_and_know_how_far_ahead_they_look():
    num, length = 7, 9
    rows = torch.arange(num * length, dtype=torch.float32)[:, None]
    config = CriticConfig(max_lag=4, hindsight=1.0, hindsight_mean=3.0)
    pairs = GoalPairs(rows, torch.arange(num + 1) * length, config, 500, seed=1)
    batch = pairs(3)
    start, ahead, goal = (batch[key][:, 0].long() for key in ("start", "ahead", "goal"))
    assert torch.equal(start // length, ahead // length)
    assert torch.equal(start // length, goal // length)
    assert torch.equal(ahead - start, batch["lag"].long())
    assert (goal > start).all()
    assert (batch["lag"] >= 1).all()
    passed = batch["bootstrap"] == 0
    assert torch.equal(ahead[passed], goal[passed])
    assert ((goal - start)[~passed] > batch["lag"].long()[~passed]).all()


def test_pairs_are_a_function_of_seed_and_step():
    rows = torch.arange(60.0)[:, None]
    offsets = torch.arange(7) * 10
    one, two = (GoalPairs(rows, offsets, CriticConfig(), 64, seed=5) for _ in range(2))
    assert torch.equal(one(9)["goal"], two(9)["goal"])
    assert not torch.equal(one(9)["goal"], one(10)["goal"])
    assert not torch.equal(one(9)["goal"], GoalPairs(rows, offsets, CriticConfig(), 64, seed=6)(9)["goal"])


def test_hindsight_goals_have_the_asked_mean_offset():
    rows = torch.arange(10_000.0)[:, None]
    config = CriticConfig(hindsight=1.0, hindsight_mean=25.0)
    batch = GoalPairs(rows, torch.tensor([0, 10_000]), config, 20_000, seed=0)(0)
    offset = (batch["goal"] - batch["start"])[:, 0]
    inside = batch["start"][:, 0] < 9000
    assert float(offset[inside].mean()) == pytest.approx(25.0, rel=0.03)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feature_dim", 16),
        ("hidden_dims", (32,)),
        ("max_lag", 2),
        ("hindsight", 0.1),
        ("hindsight_mean", 3.0),
        ("expectile", 0.5),
        ("target_rate", 0.5),
    ],
)
def test_every_setting_of_the_critic_moves_the_result(tmp_path, name, value):
    def loss_after(run, **changes):
        torch.manual_seed(0)
        embeddings, offsets = corridor(num_episodes=20)
        config = CriticConfig(**changes)
        objective = CriticObjective(Critic((20,), config))
        pairs = GoalPairs(embeddings, offsets, config, 32, seed=0)
        settings = FitConfig(num_steps=6, warmup_steps=1)
        after = objective.update_target
        result = fit(
            objective, pairs, {"steps_to_go": 1.0}, settings, run=tmp_path / run, stage="c", after_step=after
        )
        return result.metrics["loss"]

    assert loss_after("changed", **{name: value}) != loss_after("reference")


def test_a_critic_survives_the_disk_and_a_model_is_not_one(tmp_path):
    critic = Critic((D,), CriticConfig(feature_dim=4, hidden_dims=(8,)))
    save_critic(tmp_path / "critic", critic)
    loaded = load_critic(tmp_path / "critic")
    a, b = torch.randn(9, D), torch.randn(9, D)
    with torch.no_grad():
        assert torch.equal(loaded.distance(a, b), critic.distance(a, b))
    save_jepa(tmp_path / "model", make())
    with pytest.raises(CheckpointError, match="checkpoint kind must be 'critic', got 'jepa'"):
        load_critic(tmp_path / "model")


def test_bad_critic_settings_are_one_sentence():
    with pytest.raises(ValueError, match=r"expectile must be in \[0, 1\], got 1.5"):
        CriticConfig(expectile=1.5)
    with pytest.raises(ValueError, match="max_lag must be >= 1, got 0"):
        CriticConfig(max_lag=0)


def test_a_linear_probe_is_least_squares():
    x = torch.randn(500, D, dtype=torch.float64) * 3 + 1
    y = x @ torch.randn(D, 2, dtype=torch.float64) + 5 + 0.1 * torch.randn(500, 2, dtype=torch.float64)
    probe = fit_linear_probe(x, y, ridge=0.0)
    design = torch.cat([x, torch.ones(500, 1, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(probe(x.float()), (design @ expected).float(), rtol=1e-3, atol=1e-3)


def test_distance_rmse_averages_squared_distances_per_step():
    errors = torch.zeros(2, 3, 2)
    errors[0, 1] = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(distance_rmse(errors, torch.zeros(2, 3, 2)), torch.tensor([0, 12.5**0.5, 0]))
