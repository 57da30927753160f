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
    imagine_frames,
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


def test_path_lengths_are_those_of_a_loop_over_steps_and_neighbours():
    generator = torch.Generator().manual_seed(0)
    lengths = [6, 9, 5]
    points = torch.cat([torch.randn(n, 2, generator=generator).cumsum(0) for n in lengths])
    near, last = 1.3, np.cumsum(lengths) - 1
    steps = [float((points[i + 1] - points[i]).norm()) for i in range(len(points) - 1) if i not in last]
    unit = float(torch.tensor(steps).median())
    weight = np.full((len(points), len(points)), np.inf)
    for i in range(len(points)):
        weight[i, i] = 0
        for j in range(len(points)):
            distance = float((points[i] - points[j]).norm()) / unit
            if i != j and distance < near:
                weight[i, j] = max(distance, 0.05)
            if abs(i - j) == 1 and min(i, j) not in last:
                weight[i, j] = min(weight[i, j], 1.0)
    nodes, found = path_lengths(points, lengths, near)
    assert torch.equal(nodes, torch.arange(len(points)))
    np.testing.assert_allclose(found.numpy(), floyd_warshall(weight), rtol=1e-5)


def test_a_path_leads_around_a_wall_and_not_through_it():
    """Two corridors three steps apart; one episode walks around the end."""
    x = torch.arange(20.0)
    upper, lower = torch.stack([x, 0 * x + 3], -1), torch.stack([x, 0 * x], -1)
    around = torch.tensor([[19.0, 3.0], [20.0, 2.0], [20.0, 1.0], [19.0, 0.0]])
    _, lengths = path_lengths(torch.cat([upper, lower, around]), [20, 20, 4], near=2.0)
    assert lengths[0, 20] == pytest.approx(19 + 3 + 19, abs=0.5)
    _, without = path_lengths(torch.cat([upper, lower]), [20, 20], near=2.0)
    assert torch.isinf(without[0, 20])
    assert without[0, 19] == pytest.approx(19)


def test_nodes_are_every_so_manieth_frame_that_many_steps_apart():
    points = torch.stack([torch.arange(11.0), torch.zeros(11)], -1)
    nodes, lengths = path_lengths(points, [7, 4], near=0.5, every=3)
    assert nodes.tolist() == [0, 3, 6, 7, 10]
    assert lengths[0].tolist() == [0, 3, 6, torch.inf, torch.inf]
    assert lengths[3].tolist() == [torch.inf, torch.inf, torch.inf, 0, 3]


def test_lengths_must_add_up():
    with pytest.raises(ValueError, match="add up to the 4 embeddings, got 3"):
        path_lengths(torch.randn(4, 2), [2, 1], near=1.0)


@pytest.mark.parametrize("seed", range(4))
def test_imagined_frames_are_rollouts_from_at_most_that_many_steps_before(seed):
    model = make().eval()
    generator = torch.Generator().manual_seed(seed)
    frames, max_steps = 11, 4
    embeddings = torch.randn(frames, *model.embedding_shape, generator=generator)
    actions = torch.randn(frames, model.config.action_dim, generator=generator)
    imagined = imagine_frames(model, embeddings, actions, max_steps, generator)
    torch.testing.assert_close(imagined[0], embeddings[0])
    for t in range(1, frames):
        candidates = []
        for start in range(max(0, t - max_steps), t):
            with torch.no_grad():
                rollout = model.rollout(embeddings[start][None], actions[None, start:t])[0, -1]
            candidates.append(float((rollout - imagined[t]).abs().max()))
        assert min(candidates) < 1e-5, t


def graph(seed=0, num=8):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(num, num, generator=generator) * 9
    steps[0] = torch.inf
    return PathGraph(
        torch.randn(num, 3, generator=generator).half(),
        100 + torch.randn(num, 3, generator=generator).half(),
        steps.half(),
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


def test_pairs_need_a_graph():
    with pytest.raises(ValueError, match="at least one graph, got none"):
        PathPairs([], 8, 0)


def test_a_critic_learns_the_lengths_of_paths():
    """Points on a line: the distance is exactly representable."""
    position = torch.rand(60, 1, generator=torch.Generator().manual_seed(0))
    steps = 40 * (position - position.T).abs()
    points = torch.cat([position, position.square()], dim=1)
    pairs = PathPairs([PathGraph(points.half(), points.half(), steps.half())], batch_size=128, seed=0)
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
