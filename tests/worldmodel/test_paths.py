"""Shortest paths over trajectories: who shares a world, how far frames are apart, what a critic is shown."""

import numpy as np
import pytest
import torch

from tests.worldmodel.factories import make
from worldmodel.critic import Critic, CriticConfig, PathObjective
from worldmodel.paths import (
    PathConfig,
    PathGraph,
    PathPairs,
    StaticCode,
    imagine_from,
    median_step,
    nearest_episodes,
    path_lengths,
)


def episodes_of_worlds(num_worlds=6, per_world=5, frames=12, dim=10, seed=0):
    """Frames ``(E, F, D)``: a small part that belongs to the world and a large one that changes, mixed up."""
    generator = torch.Generator().manual_seed(seed)
    world = torch.arange(num_worlds).repeat_interleave(per_world)
    static = torch.randn(num_worlds, 3, generator=generator)[world]
    moving = 5 * torch.randn(len(world), frames, dim - 3, generator=generator)
    frames_of = torch.cat([static[:, None].expand(-1, frames, -1), moving], dim=-1)
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    return world, frames_of @ mixing


def test_the_static_code_pools_the_episodes_of_a_world_where_the_mean_frame_does_not():
    world, frames = episodes_of_worlds()
    code = StaticCode(frames.shape[-1], 3)
    code.add(frames[:13])
    code.add(frames[13:])

    def purity(codes):
        groups = nearest_episodes(codes, len(world), 5, torch.Generator().manual_seed(0))
        return (world[groups] == world[groups[:, :1]]).float().mean()

    assert purity(code.codes()) > 0.95
    assert purity(frames.mean(dim=1)) < 0.5


def test_a_group_begins_with_its_centre_and_is_no_larger_than_the_data():
    codes = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    groups = nearest_episodes(codes, 50, 90, torch.Generator().manual_seed(1))
    assert groups.shape == (7, 7)
    assert sorted(groups[:, 0].tolist()) == list(range(7))


@pytest.mark.parametrize("frames", [torch.randn(1, 4, 3), torch.randn(5, 1, 3)])
def test_a_static_code_needs_two_episodes_of_two_frames(frames):
    code = StaticCode(3, 2)
    code.add(frames)
    with pytest.raises(ValueError, match="at least 2 episodes of 2 frames"):
        code.codes()


def floyd_warshall(weight):
    lengths = weight.copy()
    for k in range(len(weight)):
        for i in range(len(weight)):
            for j in range(len(weight)):
                lengths[i, j] = min(lengths[i, j], lengths[i, k] + lengths[k, j])
    return lengths


def nodes_of(*lengths):
    """Which nodes are the first of their episode."""
    return torch.cat([torch.arange(length) == 0 for length in lengths])


def test_path_lengths_are_those_of_a_loop_over_steps_and_neighbours():
    generator = torch.Generator().manual_seed(0)
    lengths = [6, 9, 5]
    points = torch.cat([torch.randn(n, 2, generator=generator).cumsum(0) for n in lengths])
    near, every, is_first = 1.3, 2, nodes_of(*lengths)
    steps = [float((points[i] - points[i - 1]).norm()) for i in range(len(points)) if not is_first[i]]
    unit = median_step(points, lengths)
    assert unit == pytest.approx(float(torch.tensor(steps).median()))
    weight = np.full((len(points), len(points)), np.inf)
    for i in range(len(points)):
        weight[i, i] = 0
        for j in range(len(points)):
            distance = float((points[i] - points[j]).norm()) / unit
            if i != j and distance < near:
                weight[i, j] = max(distance, 0.05)
            if abs(i - j) == 1 and not is_first[max(i, j)]:
                weight[i, j] = min(weight[i, j], every)
    found = path_lengths(points, is_first, unit, near, every)
    np.testing.assert_allclose(found.numpy(), floyd_warshall(weight), rtol=1e-5)


def test_a_path_leads_around_a_wall_and_not_through_it():
    """Two corridors three steps apart; one episode walks around the end."""
    x = torch.arange(20.0)
    upper, lower = torch.stack([x, 0 * x + 3], -1), torch.stack([x, 0 * x], -1)
    around = torch.tensor([[19.0, 3.0], [20.0, 2.0], [20.0, 1.0], [19.0, 0.0]])
    lengths = path_lengths(torch.cat([upper, lower, around]), nodes_of(20, 20, 4), step=1.0, near=2.0)
    assert lengths[0, 20] == pytest.approx(19 + 3 + 19, abs=0.5)
    without = path_lengths(torch.cat([upper, lower]), nodes_of(20, 20), step=1.0, near=2.0)
    assert torch.isinf(without[0, 20])
    assert without[0, 19] == pytest.approx(19)


def test_lengths_must_add_up():
    with pytest.raises(ValueError, match="add up to the 4 embeddings, got 3"):
        median_step(torch.randn(4, 2), [2, 1])


def test_imagined_embeddings_are_rollouts_of_each_node_s_own_length():
    model = make().eval()
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(7, *model.embedding_shape, generator=generator)
    actions = torch.randn(7, 4, model.config.action_dim, generator=generator)
    num_steps = torch.tensor([1, 2, 3, 4, 1, 2, 3])
    imagined = imagine_from(model, nodes, actions, num_steps)
    for i, steps in enumerate(num_steps.tolist()):
        with torch.no_grad():
            alone = model.rollout(nodes[i][None], actions[i, :steps][None])[0, -1]
        torch.testing.assert_close(imagined[i], alone)


def graph(seed=0, num=8):
    generator = torch.Generator().manual_seed(seed)
    steps = 100.0 * torch.arange(num)[:, None] + torch.rand(num, num, generator=generator) * 9
    steps[0] = torch.inf
    return PathGraph(
        nodes=torch.randn(num, 3, generator=generator).half(),
        steps=steps.half(),
        imagined=100 + torch.arange(5.0)[:, None].expand(5, 3).half(),
        arrived=torch.tensor([3, 4, 0, 6, 7]),
    )


def test_pairs_repeat_leave_out_what_no_path_joins_and_show_imagined_starts():
    graphs = [graph(0), graph(1)]
    pairs = PathPairs(graphs, batch_size=64, seed=3)
    first, again, other = pairs(5), PathPairs(graphs, batch_size=64, seed=3)(5), pairs(6)
    for key in ("start", "goal", "steps"):
        torch.testing.assert_close(first[key], again[key])
    assert not torch.equal(first["goal"][:8], other["goal"][:8])
    assert first["steps"].isfinite().all()
    assert len(first["steps"]) < 64
    is_imagined = first["start"][:, 0] > 50
    assert 0.2 < float(is_imagined.float().mean()) < 0.8
    assert (first["goal"][:, 0] < 50).all()
    hundreds = (first["steps"][is_imagined] / 100).round().long()  # the node whose path is the target
    which = first["start"][is_imagined, 0].long() - 100
    assert torch.equal(hundreds, graphs[0].arrived[which])
    assert 2 not in which.tolist()  # no path leads from where its actions led
    means = torch.stack([each.nodes.float().mean(0) for each in graphs])
    of = [
        next(n for n, each in enumerate(graphs) if (each.nodes.float() == goal).all(1).any())
        for goal in first["goal"]
    ]
    torch.testing.assert_close(first["world"], means[of])


def test_a_small_batch_has_starts_of_either_kind():
    starts = torch.cat([PathPairs([graph()], batch_size=4, seed=0)(step)["start"][:, 0] for step in range(8)])
    assert (starts > 50).any()
    assert (starts < 50).any()


def test_pairs_need_a_graph():
    with pytest.raises(ValueError, match="at least one graph, got none"):
        PathPairs([], 8, 0)


def test_a_critic_learns_the_lengths_of_paths():
    """Points on a line: the distance is exactly representable."""
    position = torch.rand(60, 1, generator=torch.Generator().manual_seed(0))
    steps = 40 * (position - position.T).abs()
    points = torch.cat([position, position.square()], dim=1)
    pairs = PathPairs(
        [PathGraph(points.half(), steps.half(), points.half(), torch.arange(60))],
        128,
        seed=0,
    )
    torch.manual_seed(0)
    critic = Critic((2,), CriticConfig(feature_dim=4, hidden_dims=(32,), scale=20.0))
    critic.set_statistics(*pairs.statistics())
    objective = PathObjective(critic)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    losses = []
    for step in range(200):
        loss = objective(pairs(step))["path_length"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    critic.requires_grad_(False)
    assert losses[0] > 3
    assert losses[-1] < 0.1
    assert float(critic.distance(points[:1], points[:1])) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_graphs": 0}, "num_graphs must be >= 1, got 0"),
        ({"every": 0}, "every must be >= 1, got 0"),
        ({"near": 0.0}, "near must be > 0, got 0.0"),
    ],
)
def test_bad_settings_are_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        PathConfig(**changes)


def test_pairs_that_follow_each_other_may_share_their_goal():
    def changes(starts_per_goal):  # of the goal, from pair to pair; there are 16 pairs of each of 32 graphs
        goal = PathPairs([graph()], batch_size=512, seed=3, starts_per_goal=starts_per_goal)(0)["goal"]
        return int((goal[1:] != goal[:-1]).any(dim=1).sum())

    assert changes(16) < 32
    assert changes(8) < 64
    assert changes(1) > 200
