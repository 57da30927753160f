import pytest
import torch

from planners import GradientConfig, cem_gradient, gradient, make_planner
from tests.planners.problems import box, seeded


def wavy(actions):
    return ((actions - 0.6).square() * torch.tensor([1.0, 9.0]) + torch.sin(3 * actions)).sum(dim=(-2, -1))


def test_steps_are_those_of_torch_adam():
    seen = []

    def spy(actions):
        seen.append(actions.detach().clone())
        return wavy(actions)

    mean = torch.full((1, 4, 2), -0.5)
    config = GradientConfig(num_restarts=1, num_iters=12, learning_rate=0.07, lr_decay=1.0, beta2=0.98)
    gradient(spy, mean, torch.ones_like(mean), box(100.0, 2), config, generator=seeded(0))
    actions = torch.nn.Parameter(mean[:, None].clone())
    optimizer = torch.optim.Adam([actions], lr=0.07, betas=(0.9, 0.98), eps=1e-12)
    assert len(seen) == 13
    for ours in seen:
        torch.testing.assert_close(ours, actions.detach(), rtol=1e-4, atol=1e-5)
        optimizer.zero_grad()
        wavy(actions).sum().backward()
        optimizer.step()
    assert (seen[-1] - seen[0]).abs().min() > 0.1


def test_the_learning_rate_falls_geometrically():
    config = GradientConfig(num_iters=5, learning_rate=0.2, lr_decay=0.01)
    rates = torch.tensor([config.rate(i) for i in range(5)])
    torch.testing.assert_close(rates, torch.logspace(0, -2, 5) * 0.2)


@pytest.mark.parametrize("planner", [gradient, cem_gradient])
def test_it_works_under_no_grad_and_leaves_no_gradient_on_the_model(planner):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    target = model(torch.tensor([0.3, -0.4])).detach()
    mean = torch.zeros(2, 3, 2)
    with torch.no_grad():
        plan = planner(
            lambda actions: (model(actions) - target).square().sum(dim=(-2, -1)),
            mean,
            torch.ones_like(mean),
            box(1.0, 2),
            generator=seeded(0),
        )
        assert not torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not plan.actions.requires_grad
    assert not plan.cost.requires_grad
    assert (plan.cost < 1e-4).all()


def test_more_restarts_escape_local_minima():
    def cost_fn(actions):  # the best of many minima lies at 2
        return (0.1 * (actions - 2).square() + 1 - torch.cos(2 * torch.pi * actions)).sum(dim=(-2, -1))

    mean = torch.zeros(1, 1, 1)
    costs = [
        make_planner("gradient", num_restarts=n)(
            cost_fn, mean, torch.full_like(mean, 2.0), box(4.0, 1), generator=seeded(0)
        ).cost.item()
        for n in (1, 64)
    ]
    assert costs[0] > 0.3
    assert costs[1] < 0.01


def test_the_best_iteration_is_returned_not_the_last():
    mean = torch.full((1, 1, 1), 0.5)
    planner = make_planner("gradient", num_restarts=1, num_iters=2, learning_rate=3.0, lr_decay=1.0)
    plan = planner(lambda a: a.square().sum(dim=(-2, -1)), mean, mean, box(100.0, 1), generator=seeded(0))
    assert plan.cost <= 0.25
    assert plan.mean.square().sum() > plan.cost, "the last step overshot"


def test_a_candidate_that_leaves_the_domain_comes_back():
    def cost_fn(actions):  # falls towards 1, NaN with a NaN gradient above 0.5
        return (actions - 1).square().sum(dim=(-2, -1)) + 0 * torch.sqrt(0.5 - actions).sum(dim=(-2, -1))

    mean = torch.zeros(1, 2, 1)
    planner = make_planner("gradient", num_restarts=4, num_iters=60)
    plan = planner(cost_fn, mean, torch.full_like(mean, 0.3), box(3.0, 1), generator=seeded(0))
    assert plan.cost.item() == pytest.approx(0.5, abs=0.05)
    assert torch.isfinite(plan.mean).all()


@pytest.mark.parametrize("planner", [gradient, cem_gradient])
def test_a_cost_without_a_gradient_is_refused(planner):
    mean = torch.zeros(1, 2, 1)
    with pytest.raises(ValueError, match="cost_fn must be differentiable in the actions"):
        planner(lambda a: (a.detach() > 0).float().sum(dim=(-2, -1)), mean, mean + 1, box(1.0, 1))
    weight = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="cost_fn must be differentiable in the actions"):
        planner(lambda a: weight * a.detach().sum(dim=(-2, -1)), mean, mean + 1, box(1.0, 1))


def test_inference_mode_is_refused():
    mean = torch.zeros(1, 2, 1)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"outside torch\.inference_mode"):
        gradient(lambda a: a.sum(dim=(-2, -1)), mean, mean + 1, box(1.0, 1))
