import pytest
import torch

from planners import average_actions, chunk_candidates, repeat_actions, with_action_repeat
from tests.planners.problems import seeded


@pytest.mark.parametrize("max_rows", [1, 7, 30, 1000])
def test_chunks_give_the_costs_of_one_call_and_keep_to_the_limit(max_rows):
    rows = []

    def cost_fn(actions):
        rows.append(actions.shape[0] * actions.shape[1])
        return actions.square().sum(dim=(-2, -1))

    actions = torch.randn(3, 41, 5, 2, generator=seeded(0))
    whole = actions.square().sum(dim=(-2, -1))
    torch.testing.assert_close(chunk_candidates(cost_fn, max_rows)(actions), whole)
    assert sum(rows) == 3 * 41
    assert max(rows) <= max(max_rows, 3)


def test_gradients_pass_through_chunks():
    actions = torch.randn(2, 9, 3, 1, requires_grad=True)
    cost = chunk_candidates(lambda a: a.pow(3).sum(dim=(-2, -1)), 4)(actions)
    (slope,) = torch.autograd.grad(cost.sum(), actions)
    torch.testing.assert_close(slope, 3 * actions.detach().square())


def test_knots_are_held_and_averaging_undoes_it():
    knots = torch.randn(2, 3, 4, 2, generator=seeded(0))
    actions = repeat_actions(knots, 3)
    assert actions.shape == (2, 3, 12, 2)
    for step in range(12):
        assert torch.equal(actions[:, :, step], knots[:, :, step // 3])
    torch.testing.assert_close(average_actions(actions, 3), knots)


def test_the_cost_of_knots_is_the_cost_of_the_steps_they_stand_for():
    knots = torch.randn(2, 5, 3, 1, generator=seeded(0))
    ramp = torch.arange(6.0).view(6, 1)
    cost = with_action_repeat(lambda actions: (actions * ramp).sum(dim=(-2, -1)), 2)(knots)
    torch.testing.assert_close(cost, (knots * torch.tensor([[1.0], [5.0], [9.0]])).sum(dim=(-2, -1)))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="max_rows must be >= 1, got 0"):
        chunk_candidates(torch.sum, 0)
    with pytest.raises(ValueError, match="repeat must be >= 1, got 0"):
        repeat_actions(torch.zeros(2, 1), 0)
    with pytest.raises(ValueError, match="repeat must be >= 1, got 0"):
        with_action_repeat(torch.sum, 0)
    with pytest.raises(ValueError, match="repeat must be a divisor of 5 steps, got 2"):
        average_actions(torch.zeros(5, 1), 2)
