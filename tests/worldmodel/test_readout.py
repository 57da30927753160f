"""A readout is regressed on frames, and a rule on it is a cost of imagined embeddings."""

import pytest
import torch

from worldmodel.checkpoint import CheckpointError, save_folder
from worldmodel.readout import (
    Readout,
    ReadoutConfig,
    ReadoutCost,
    ReadoutObjective,
    SeenPair,
    load_readout,
    save_readout,
)


def gap(values, goal):
    return (values - goal).abs().sum(-1)


def trained():
    """A readout of ``3 (x, -y)`` from a rotated and shifted ``(x, y)``."""
    torch.manual_seed(0)
    values = torch.randn(2000, 2) * torch.tensor([3.0, 3.0])
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    embeddings = (values / 3.0 * torch.tensor([1.0, -1.0])) @ turn + 5.0
    readout = Readout(2, 2, ReadoutConfig(hidden_dims=(32,)))
    readout.set_statistics(embeddings, values)
    objective, optimiser = ReadoutObjective(readout), torch.optim.Adam(readout.parameters(), lr=1e-2)
    for _ in range(300):
        loss = objective({"embedding": embeddings, "value": values})["readout"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return readout.requires_grad_(False), embeddings, values


def test_it_reads_in_the_units_of_the_data():
    readout, embeddings, values = trained()
    assert (readout(embeddings) - values).abs().mean() < 0.1  # of values that are 3 wide
    assert readout(embeddings[:6].view(2, 3, 2)).shape == (2, 3, 2)


def test_the_cost_is_the_rule_summed_over_the_plan_and_has_a_gradient():
    readout, embeddings, values = trained()
    cost = ReadoutCost(readout, gap)
    futures = embeddings[:24].view(2, 3, 4, 2).clone().requires_grad_(True)
    goal = embeddings[100:102].view(2, 1, 2)
    found = cost(futures, torch.zeros(2, 3, 4, 1), goal)
    expected = gap(values[:24].view(2, 3, 4, 2), values[100:102].view(2, 1, 1, 2)).sum(-1)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, expected, atol=1.0, rtol=0.1)
    found.sum().backward()
    assert bool((futures.grad.abs().sum(-1) > 0).all())


def test_a_constant_value_stays_finite():
    readout = Readout(3, 2)
    embeddings = torch.randn(50, 3)
    readout.set_statistics(embeddings, torch.ones(50, 2))
    assert bool(readout(embeddings).isfinite().all())


def test_it_survives_the_disk_and_refuses_what_is_none(tmp_path):
    readout, embeddings, _ = trained()
    save_readout(tmp_path / "readout", readout)
    assert torch.equal(load_readout(tmp_path / "readout")(embeddings), readout(embeddings))
    save_folder(tmp_path / "other", {"kind": "readout", "readout": {"depth": 3}}, {})
    with pytest.raises(CheckpointError, match="must describe a readout"):
        load_readout(tmp_path / "other")
    with pytest.raises(ValueError, match=r"hidden_dims of a readout must be >= 1, got \(0,\)"):
        ReadoutConfig(hidden_dims=(0,))


def test_what_a_rule_does_not_read_of_the_goal_is_not_shown_of_it():
    readout = Readout(6, 3)
    values = torch.randn(100, 3)
    readout.set_goal_values(
        lambda here, goal: (here[..., 0] - goal[..., 0]).abs() + here[..., 1].abs(), values
    )
    assert readout.is_of_goal.tolist() == [1, 0, 0]

    def near(here, goal):  # the last one matters where the first is right
        first, last = (here - goal)[..., 0].abs(), (here - goal)[..., 2].abs()
        return first + last * (1 - first / 0.1).clamp_min(0)

    readout.set_goal_values(near, values)
    assert readout.is_of_goal.tolist() == [1, 0, 1]
    start, goal = torch.randn(2, 4, 6)
    seen, there = readout.pair(start, goal)
    torch.testing.assert_close(seen, readout.standardised(start))
    assert (there[:, 1] == 0).all()
    torch.testing.assert_close(there[:, [0, 2]], readout.standardised(goal)[:, [0, 2]])
    torch.testing.assert_close(SeenPair(readout)(start, goal), torch.cat([seen, there], -1))
