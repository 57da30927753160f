import numpy as np
import pytest
import torch

from planners import make_planner
from planners.mppi import path_weights
from planners.search import refit
from tests.planners.problems import box, seeded


def test_refit_is_the_weighted_mean_and_std_of_numpy():
    actions = torch.randn(2, 9, 4, 3, generator=seeded(0), dtype=torch.float64)
    weights = torch.rand(2, 9, generator=seeded(1), dtype=torch.float64)
    old_mean, old_std = torch.ones(2, 4, 3, dtype=torch.float64), torch.ones(2, 4, 3, dtype=torch.float64)
    mean, std = refit(old_mean, old_std, actions, weights, momentum=0.25, min_std=0.0)
    for b in range(2):
        fitted = np.average(actions[b], axis=0, weights=weights[b])
        var = np.average((actions[b].numpy() - fitted) ** 2, axis=0, weights=weights[b])
        np.testing.assert_allclose(mean[b], 0.75 * fitted + 0.25)
        np.testing.assert_allclose(std[b], 0.75 * np.sqrt(var) + 0.25)


def test_min_std_is_a_floor_of_the_fit():
    actions = torch.zeros(1, 5, 2, 1)
    _, std = refit(
        torch.zeros(1, 2, 1), torch.ones(1, 2, 1), actions, torch.ones(1, 5), momentum=0, min_std=0.3
    )
    torch.testing.assert_close(std, torch.full((1, 2, 1), 0.3))


def test_path_weights_follow_the_formula():
    cost = torch.tensor([[3.0, 1.0, 2.0, torch.inf]])
    scale = (2.0 + 0.0 + 1.0) / 3
    expected = torch.tensor([[np.exp(-2 / scale / 0.5), 1.0, np.exp(-1 / scale / 0.5), 0.0]]).float()
    torch.testing.assert_close(path_weights(cost, 0.5), expected)


def test_path_weights_are_even_for_equal_costs_and_zero_without_finite_ones():
    assert torch.equal(path_weights(torch.full((1, 3), 7.0), 0.1), torch.ones(1, 3))
    assert torch.equal(path_weights(torch.full((1, 3), torch.inf), 0.1), torch.zeros(1, 3))


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_temperature_runs_from_the_best_alone_to_all_alike(temperature):
    weights = path_weights(torch.tensor([[0.0, 1.0, 2.0]]), temperature)
    limit = torch.tensor([[1.0, 0.0, 0.0]]) if temperature < 1 else torch.ones(1, 3)
    torch.testing.assert_close(weights, limit, rtol=0, atol=1e-3)


class Recorder:
    """A cost function that keeps what it was shown."""

    def __init__(self, cost_fn):
        self.cost_fn = cost_fn
        self.actions = []

    def __call__(self, actions):
        self.actions.append(actions.detach().clone())
        return self.cost_fn(actions)


def energy(actions):
    return (actions - 0.5).square().sum(dim=(-2, -1))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_the_gaussian_is_fitted_to_finite_candidates_only(name):
    def cost_fn(actions):
        cost = torch.full(actions.shape[:2], torch.nan)
        cost[:, 5:8] = 1.0
        return cost

    recorder, mean = Recorder(cost_fn), torch.zeros(2, 3, 1)
    planner = make_planner(name, num_samples=32, num_elites=8, num_iters=1, min_std=0.0, momentum=0.0)
    plan = planner(recorder, mean, mean + 1, box(9.0, 1), generator=seeded(0))
    finite = recorder.actions[0][:, 5:8]
    torch.testing.assert_close(plan.mean, finite.mean(dim=1))
    torch.testing.assert_close(plan.std, finite.std(dim=1, correction=0))


@pytest.mark.parametrize("name", ["cem", "mppi", "cem_gradient"])
def test_proposals_join_the_first_iteration_only(name):
    recorder, mean = Recorder(energy), torch.zeros(2, 3, 1)
    planner = make_planner(name, num_samples=64, num_iters=3)
    planner(recorder, mean, mean + 1, box(9.0, 1), proposals=torch.ones(2, 4, 3, 1), generator=seeded(0))
    assert [actions.shape[1] for actions in recorder.actions[:3]] == [68, 64, 64]
    torch.testing.assert_close(recorder.actions[0][:, 64:], torch.ones(2, 4, 3, 1))


def test_icem_shrinks_its_population_keeps_elites_and_ends_with_the_mean():
    recorder, mean = Recorder(energy), torch.full((2, 3, 1), 0.1)
    planner = make_planner("icem", num_samples=100, num_elites=20, num_iters=4, decay=2.0, keep_fraction=0.25)
    planner(recorder, mean, torch.ones_like(mean), box(9.0, 1), generator=seeded(0))
    assert [actions.shape[1] for actions in recorder.actions] == [100, 50 + 5, 40 + 5, 40 + 5]
    first, second = recorder.actions[:2]
    cheapest = energy(first).argsort(dim=1)[:, :5]
    torch.testing.assert_close(
        second[:, 50:], first.gather(1, cheapest[..., None, None].expand(-1, -1, 3, 1))
    )
    single = Recorder(energy)
    make_planner("icem", num_iters=1)(single, mean, mean, box(9.0, 1), generator=seeded(0))
    torch.testing.assert_close(single.actions[0][:, 0], mean)
    assert not torch.equal(first[:, 0], mean)


def test_the_descent_of_cem_gradient_starts_at_the_best_plan_ever_seen():
    recorder, mean = Recorder(energy), torch.zeros(2, 3, 1)
    planner = make_planner("cem_gradient", num_samples=64, num_iters=3, min_std=2.0)
    needle = torch.full((2, 1, 3, 1), 0.51)
    planner(recorder, mean, mean + 1, box(9.0, 1), proposals=needle, generator=seeded(0))
    torch.testing.assert_close(recorder.actions[3][:, :1], needle)


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_a_final_mean_without_a_finite_cost_gives_way_to_the_best_candidate(name):
    def cost_fn(actions):  # two good sides, their middle is forbidden
        size = actions.abs().amin(dim=(-2, -1))
        return torch.where(size > 0.2, (size - 0.5).square(), torch.nan)

    mean = torch.zeros(2, 1, 1)
    planner = make_planner(name, num_samples=512, num_elites=256, num_iters=1, return_mean=True)
    plan = planner(cost_fn, mean, mean + 1, box(9.0, 1), generator=seeded(0))
    assert (plan.mean.abs() < 0.2).all(), "the mean is forbidden"
    assert (plan.cost < 1e-3).all()
    torch.testing.assert_close(plan.cost, cost_fn(plan.actions[:, None])[:, 0])
