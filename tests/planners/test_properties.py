import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planners import PLANNERS, ActionBounds, make_planner
from tests.planners.problems import box, seeded

SMALL = {
    "random_shooting": {"num_samples": 64},
    "cem": {"num_samples": 64, "num_elites": 8, "num_iters": 4},
    "icem": {"num_samples": 64, "num_elites": 8, "num_iters": 4},
    "mppi": {"num_samples": 64, "num_elites": 16, "num_iters": 4},
    "gradient": {"num_restarts": 8, "num_iters": 10},
    "cem_gradient": {"num_samples": 64, "num_elites": 8, "num_iters": 3, "num_refined": 8, "num_steps": 6},
}
SAMPLING = [name for name in PLANNERS if "gradient" not in name]
every_planner = pytest.mark.parametrize("name", PLANNERS)


def targets(num_problems, dtype=torch.float64):
    return torch.linspace(-0.8, 0.9, num_problems, dtype=dtype).view(-1, 1, 1, 1)


def bumpy(target):
    """A smooth cost with many minima that couples the steps, one target per problem."""

    def cost_fn(actions):
        path = actions.cumsum(dim=2)
        return ((actions - target).square() + 0.3 * torch.cos(7 * path + 1)).sum(dim=(-2, -1))

    return cost_fn


def start(num_problems, horizon=5, action_dim=2, dtype=torch.float64):
    mean = torch.zeros(num_problems, horizon, action_dim, dtype=dtype)
    return mean, torch.full_like(mean, 0.7)


@every_planner
def test_same_seed_same_bits_and_another_seed_another_plan(name):
    planner = make_planner(name, **SMALL[name])
    plans = [planner(bumpy(targets(3)), *start(3), box(1.0, 2), generator=seeded(s)) for s in (0, 0, 1)]
    for field in ("actions", "cost", "mean", "std", "history"):
        assert torch.equal(getattr(plans[0], field), getattr(plans[1], field))
    assert not torch.equal(plans[0].actions, plans[2].actions)


@every_planner
def test_a_generator_leaves_the_global_randomness_alone(name):
    before = torch.get_rng_state()
    make_planner(name, **SMALL[name])(bumpy(targets(2)), *start(2), box(1.0, 2), generator=seeded(0))
    assert torch.equal(before, torch.get_rng_state())


@every_planner
def test_problems_in_a_batch_do_not_see_each_other(name):
    planner, bounds, target = make_planner(name, **SMALL[name]), box(1.0, 2, max_norm=1.1), targets(4)
    mean, std = start(4)
    mean = mean + target[:, 0]
    proposals = (target * 0.5).expand(4, 3, 5, 2)
    batch = planner(bumpy(target), mean, std, bounds, proposals=proposals, generator=seeded(0))
    for b in range(4):
        one = slice(b, b + 1)
        alone = planner(
            bumpy(target[one]), mean[one], std[one], bounds, proposals=proposals[one], generator=seeded(0)
        )
        for field in ("actions", "cost", "mean", "std"):
            torch.testing.assert_close(
                getattr(batch, field)[one], getattr(alone, field), rtol=1e-9, atol=1e-9
            )


@every_planner
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 1000.0), (1000.0, 0.0), (1e-3, -5.0)])
def test_scaling_and_shifting_the_cost_does_not_change_the_plan(name, scale, shift):
    planner, cost_fn = make_planner(name, **SMALL[name]), bumpy(targets(3))
    plain = planner(cost_fn, *start(3), box(1.0, 2), generator=seeded(0))
    changed = planner(lambda a: scale * cost_fn(a) + shift, *start(3), box(1.0, 2), generator=seeded(0))
    torch.testing.assert_close(plain.actions, changed.actions, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scale * plain.cost + shift, changed.cost, rtol=1e-6, atol=1e-6)


@every_planner
@pytest.mark.parametrize("max_norm", [None, 0.6])
def test_every_candidate_and_the_plan_lie_inside_the_bounds(name, max_norm):
    bounds = ActionBounds(torch.tensor([-1.0, -0.2]), torch.tensor([0.5, 2.0]), max_norm)
    seen, cost_fn = [], bumpy(targets(2, torch.float32))

    def spy(actions):
        seen.append(actions.detach().clone())
        return cost_fn(actions)

    mean, std = start(2, dtype=torch.float32)
    plan = make_planner(name, **SMALL[name])(
        spy, mean + 3, std * 5, bounds, proposals=torch.full((2, 4, 5, 2), -7.0), generator=seeded(0)
    )
    assert seen
    assert all(bounds.contains(actions, tol=1e-6).all() for actions in seen)
    assert bounds.contains(plan.actions, tol=1e-6).all()


@every_planner
@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
def test_a_cost_that_is_not_finite_is_never_preferred(name, bad):
    def cost_fn(actions):
        cost = (actions - 0.8).square().sum(dim=(-2, -1))
        return torch.where(actions[:, :, 0, 0] > 0.3, torch.as_tensor(bad, dtype=cost.dtype), cost)

    plan = make_planner(name, **SMALL[name])(cost_fn, *start(2), box(1.0, 2), generator=seeded(0))
    assert torch.isfinite(plan.cost).all()
    assert (plan.actions[:, 0, 0] <= 0.3).all()
    assert all(torch.isfinite(tensor).all() for tensor in (plan.actions, plan.mean, plan.std))
    assert (plan.cost < cost_fn(torch.zeros(1, 1, 5, 2))[0, 0]).all(), "the search goes on beside them"


@every_planner
def test_a_problem_without_any_finite_cost_keeps_its_projected_mean(name):
    target, bounds = targets(2), box(1.0, 2, max_norm=0.5)
    nan_first = torch.tensor([torch.nan, 1.0], dtype=torch.float64)[:, None]
    mean, std = start(2)
    mean = mean + 0.9
    planner = make_planner(name, **SMALL[name])
    plan = planner(lambda a: bumpy(target)(a) * nan_first, mean, std, bounds, generator=seeded(0))
    torch.testing.assert_close(plan.actions[0], bounds.project(mean[0]))
    assert plan.cost[0] == torch.inf
    assert torch.isfinite(plan.mean).all()
    assert torch.isfinite(plan.std).all()
    alone = planner(bumpy(target[1:]), mean[1:], std[1:], bounds, generator=seeded(0))
    torch.testing.assert_close(plan.actions[1:], alone.actions)


@every_planner
def test_inputs_are_unchanged(name):
    mean, std = start(2)
    bounds, proposals = box(0.5, 2, max_norm=0.4), torch.full((2, 3, 5, 2), 0.9, dtype=torch.float64)
    given = [mean, std, bounds.low, bounds.high, proposals]
    copies = [tensor.clone() for tensor in given]
    make_planner(name, **SMALL[name])(
        bumpy(targets(2)), mean, std, bounds, proposals=proposals, generator=seeded(0)
    )
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, copies, strict=True))


@every_planner
def test_a_good_proposal_is_taken_up(name):
    overrides = SMALL[name] | ({"return_mean": False} if name == "mppi" else {})
    mean, std = start(2)
    needle = torch.full((2, 1, 5, 2), 0.77, dtype=torch.float64)

    def cost_fn(actions):  # flat but for the neighbourhood of the needle
        return (actions - needle).abs().amax(dim=(-2, -1)).clamp_max(0.05)

    plans = [
        make_planner(name, **overrides)(
            cost_fn, mean, std, box(1.0, 2), proposals=proposals, generator=seeded(0)
        )
        for proposals in (None, needle)
    ]
    assert (plans[0].cost == 0.05).all()
    assert (plans[1].cost < 1e-12).all()


@every_planner
def test_history_falls_and_ends_at_the_best_cost_seen(name):
    seen, cost_fn = [], bumpy(targets(3))

    def spy(actions):
        seen.append(cost_fn(actions).detach().amin(dim=1))
        return cost_fn(actions)

    overrides = SMALL[name] | ({"return_mean": False} if name == "mppi" else {})
    plan = make_planner(name, **overrides)(spy, *start(3), box(1.0, 2), generator=seeded(0))
    assert (plan.history.diff(dim=0) <= 0).all()
    torch.testing.assert_close(plan.history[-1], torch.stack(seen).amin(dim=0))
    torch.testing.assert_close(plan.cost, plan.history[-1])


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("scale", [0.1, 0.4])
def test_the_noise_scale_given_is_the_noise_scale_drawn(name, scale):
    seen = []

    def spy(actions):
        seen.append(actions)
        return actions.square().sum(dim=(-2, -1))

    mean, std = start(2, horizon=8)
    overrides = SMALL[name] | {"num_samples": 2048}
    make_planner(name, **overrides)(spy, mean, torch.full_like(std, scale), box(50.0, 2), generator=seeded(0))
    assert seen[0].std() == pytest.approx(scale, rel=0.05)


def test_mppi_keeps_the_given_noise_scale_when_it_does_not_refit():
    seen = []

    def spy(actions):
        seen.append(actions)
        return actions.square().sum(dim=(-2, -1))

    planner = make_planner("mppi", num_samples=2048, num_iters=5, refit_std=False)
    mean, std = start(1)
    plan = planner(spy, mean, std, box(50.0, 2), generator=seeded(0))
    assert torch.equal(plan.std, std)
    for actions in seen[:-1]:
        assert actions.std(dim=1).mean() == pytest.approx(0.7, rel=0.05)


def test_a_float32_cost_may_come_in_half_precision():
    mean, std = start(2, dtype=torch.float32)
    cost_fn = bumpy(targets(2, torch.float32))
    plan = make_planner("cem", **SMALL["cem"])(
        lambda actions: cost_fn(actions).bfloat16(), mean, std, box(1.0, 2), generator=seeded(0)
    )
    assert plan.cost.dtype == torch.float32


class CountReads(TorchDispatchMode):
    """Counts how often a tensor's value is read by Python, which makes a GPU wait."""

    num_reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num_reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "random_shooting"])
def test_iterations_never_read_a_value(name):
    num_reads = []
    for num_iters in (1, 5):
        length = {"num_steps": num_iters} if name == "cem_gradient" else {}
        planner = make_planner(name, **SMALL[name] | length | {"num_iters": num_iters})
        with CountReads() as counter:
            planner(bumpy(targets(2)), *start(2), box(1.0, 2, max_norm=0.9), generator=seeded(0))
        num_reads.append(counter.num_reads)
    assert num_reads[0] == num_reads[1]
    assert num_reads[0] > 0, "the checks at the boundary do read"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_planner
def test_a_gpu_finds_the_plan_of_a_cpu(name):
    planner, (mean, std) = make_planner(name, **SMALL[name]), start(2)
    here = planner(bumpy(targets(2)), mean, std, box(1.0, 2, max_norm=0.9), generator=seeded(0))
    there = planner(
        bumpy(targets(2).cuda()), mean.cuda(), std.cuda(), box(1.0, 2, max_norm=0.9), generator=seeded(0)
    )
    torch.testing.assert_close(here.actions, there.actions.cpu(), rtol=1e-6, atol=1e-6)
