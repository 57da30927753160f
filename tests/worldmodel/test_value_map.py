"""The head of the critic for feature maps: its values spread over the goal's map, and starts read them."""

import pytest
import torch

from worldmodel.critic import Critic, CriticConfig, PathObjective, load_critic, save_critic
from worldmodel.paths import PathGraph, PathPairs
from worldmodel.value_map import Surroundings, ValueMap

SHAPE = (3, 1, 6)  # agent, goal marker, wall; a corridor of six positions


def corridors(num, generator):
    """One-hot agents and goals in corridors with a wall somewhere or nowhere, and the steps between them."""
    start, goal = torch.randint(6, (2, num), generator=generator)
    wall = torch.randint(-6, 6, (num,), generator=generator)
    maps = torch.zeros(2, num, *SHAPE)
    for which, place in enumerate((start, goal)):
        maps[which, torch.arange(num), 0, 0, place] = 1
    is_wall = wall >= 0
    maps[:, is_wall, 2, 0, wall[is_wall]] = 1
    low, high = torch.minimum(start, goal), torch.maximum(start, goal)
    is_blocked = (wall > low) & (wall < high)
    steps = (start - goal).abs().float() + 6.0 * is_blocked
    return maps[0].flatten(1), maps[1].flatten(1), steps


def test_it_learns_that_a_wall_in_between_makes_the_way_longer():
    torch.manual_seed(0)
    net, generator = ValueMap(SHAPE, channels=4, hidden_channels=16, num_iterations=6), torch.Generator()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(250):
        start, goal, steps = corridors(64, generator)
        loss = (net(start, goal) - steps).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    start, goal, steps = corridors(500, generator)
    with torch.no_grad():
        error = (net(start, goal) - steps).abs().mean()
    assert error < 0.9  # the mean alone is 2.4 off


def test_attention_is_told_to_find_what_moves_in_a_world():
    """Two worlds, each with a wall of its own that outshines the agent, which goes along the middle of three rows.

    Where it never is something reacts to it, slightly: in units of its spread as much as the agent itself does.
    """
    shape, graphs = (3, 3, 6), []
    for wall in (0, 5):
        maps = torch.zeros(6, *shape)
        maps[torch.arange(6), 0, 1, torch.arange(6)] = 1
        maps[torch.arange(6), 1, 0, torch.arange(6)] = 0.05
        maps[:, 2, 2, wall] = 10
        steps = (torch.arange(6)[:, None] - torch.arange(6)).abs().half()
        graphs.append(PathGraph(maps.flatten(1).half(), steps, maps.flatten(1).half(), torch.arange(6)))
    pairs = PathPairs(graphs, batch_size=128, seed=0)
    torch.manual_seed(0)
    config = CriticConfig(head="value_map", feature_dim=2, hidden_dims=(16,), num_iterations=6)
    objective = PathObjective(Critic(shape, config))
    objective.critic.set_statistics(*pairs.statistics())
    assert set(objective.terms) == set(objective(pairs(0))) == {"path_length", "attention"}
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
    for step in range(200):
        loss = objective(pairs(step))["attention"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for graph in graphs:
        nodes, _ = objective.critic.seen(graph.nodes.float(), graph.nodes.float())
        found = objective.critic.head.places(nodes.unflatten(1, shape))[0].argmax(1)
        assert (found % 6).tolist() == pytest.approx(list(range(6)), abs=1)
        assert (found // 6 <= 1).all()


def test_goals_are_shared_and_broadcast_without_a_difference():
    torch.manual_seed(0)
    critic = Critic(
        (4, 3, 3), CriticConfig(head="value_map", feature_dim=2, hidden_dims=(8,), num_iterations=3)
    )
    starts, goals = torch.randn(5, 7, 36), torch.randn(5, 1, 36)
    apart = torch.stack([critic.distance(starts[b, n], goals[b, 0]) for b in range(5) for n in range(7)])
    torch.testing.assert_close(critic.distance(starts, goals).flatten(), apart)
    repeated = goals.expand(-1, 7, -1).reshape(-1, 36)
    torch.testing.assert_close(critic.distance(starts.flatten(0, 1), repeated), apart)
    imagined = starts.view(5, 7, 1, 36)
    cost = critic(imagined.unflatten(3, (4, 3, 3)), torch.zeros(5, 7, 1, 2), goals.view(5, 1, 4, 3, 3))
    torch.testing.assert_close(cost.flatten(), apart)
    assert bool((apart >= 0).all())


def test_it_survives_the_disk_and_needs_a_map(tmp_path):
    critic = Critic((4, 3, 3), CriticConfig(head="value_map", feature_dim=2, hidden_dims=(8,)))
    save_critic(tmp_path / "critic", critic)
    a, b = torch.randn(2, 6, 36)
    assert torch.equal(load_critic(tmp_path / "critic").distance(a, b), critic.distance(a, b))
    with pytest.raises(ValueError, match=r"a value map must be of a feature map \(C, h, w\), got \(36,\)"):
        Critic((36,), CriticConfig(head="value_map"))
    with pytest.raises(
        ValueError, match="head must be one of metric, quasimetric, value_map, mlp, got 'values'"
    ):
        CriticConfig(head="values")


def test_a_policy_is_shown_which_way_the_values_fall():
    """In a corridor whose costs are equal, one neighbour is nearer to the goal and the opposite one farther."""
    torch.manual_seed(0)
    net = ValueMap(SHAPE, channels=1, hidden_channels=4, num_iterations=6)
    with torch.no_grad():
        for layer in (*net.costs, *net.place):
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()
                layer.bias.zero_()
        net.place[0].weight[0, 0, 1, 1] = 1.0  # where the agent is
        net.place[2].weight[0, 0] = 100.0
        net.slope.fill_(10.0)
    reader = Surroundings(net)
    assert reader.num_features == 9 * 1 + 2 * 9 * 3
    assert not any(parameter.requires_grad for parameter in reader.parameters())
    maps = torch.zeros(6, *SHAPE)
    maps[torch.arange(6), 0, 0, torch.arange(6)] = 1
    flat = maps.flatten(1)
    features = reader(flat, flat[4].expand(6, -1))
    left, right = features[:, 1 + 3], features[:, 1 + 4]  # after the value: the neighbours, row by row
    assert bool((right[:4] < 0).all())
    assert bool((left[1:5] > 0).all())
    assert float(right[4]) > 0
    values = features[:, 0]
    assert bool((values[:4] > values[1:5]).all())
    apart = torch.cat([reader(flat[i : i + 1], flat[4:5]) for i in range(6)])
    torch.testing.assert_close(features, apart)
