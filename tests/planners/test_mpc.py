import pytest
import torch

from planners import MPC, PLANNERS, MPCConfig, Plan, make_planner, shift_plan
from tests.planners.problems import box, seeded
from tests.planners.test_properties import SMALL

GOALS = torch.tensor([[1.5, 0.5], [-1.0, 1.2], [0.4, -1.6]])


def point_mass(state, actions):
    """Damped mass: state (..., 4) is position and velocity."""
    velocity = 0.8 * state[..., 2:] + 0.2 * actions
    return torch.cat((state[..., :2] + velocity, velocity), dim=-1)


def goal_cost(state, goals=GOALS):
    def cost_fn(actions):
        current = state[:, None].expand(-1, actions.shape[1], -1)
        cost = 0.0
        for step in range(actions.shape[2]):
            current = point_mass(current, actions[:, :, step])
            cost = cost + (current[..., :2] - goals[:, None]).square().sum(dim=-1)
        return cost

    return cost_fn


class Script:
    """A planner that returns given plans and records what it was asked."""

    def __init__(self, *plans):
        self.plans = list(plans)
        self.means, self.stds, self.proposals = [], [], []

    def __call__(self, cost_fn, mean, std, bounds, *, proposals=None, generator=None):
        assert cost_fn(mean[:, None]).shape == (len(mean), 1)
        assert bounds.contains(mean).all()
        assert generator is None or isinstance(generator, torch.Generator)
        self.means.append(mean)
        self.stds.append(std)
        self.proposals.append(proposals)
        actions = self.plans.pop(0)
        return Plan(actions, actions[:, 0, 0], actions, std, actions[:, 0].T)


def ramp(num_problems, horizon, scale=0.1):
    """Plans whose entries tell problem and step: problem + scale * step."""
    steps = torch.arange(horizon) * scale
    return (torch.arange(num_problems)[:, None] + steps)[..., None]


def energy(actions):
    return actions.square().sum(dim=(-2, -1))


@pytest.mark.parametrize("name", PLANNERS)
def test_mpc_brings_a_point_mass_to_its_goal(name):
    config = MPCConfig(horizon=6, init_std=0.6)
    overrides = SMALL[name] | {"num_samples": 256} if "num_samples" in SMALL[name] else {"num_iters": 20}
    mpc = MPC(make_planner(name, **overrides), box(1.0, 2, max_norm=1.0), config, generator=seeded(0))
    state = torch.zeros(3, 4)
    for _ in range(25):
        action = mpc.act(goal_cost(state), 3)
        assert mpc.bounds.contains(action).all()
        state = point_mass(state, action)
    assert (state[:, :2] - GOALS).norm(dim=-1).max() < (0.3 if name == "random_shooting" else 0.1)


@pytest.mark.parametrize(("execute", "repeat"), [(3, 1), (2, 2), (3, 2), (1, 4)])
def test_several_steps_per_plan_and_per_macro_action_reach_the_goal(execute, repeat):
    config = MPCConfig(horizon=8, action_repeat=repeat, execute=execute, init_std=0.6, max_rows=100)
    mpc = MPC(make_planner("cem", num_iters=4), box(1.0, 2), config, generator=seeded(0))
    state, num_plans = torch.zeros(3, 4), 0
    for _ in range(30):
        num_plans += mpc.needs_plan
        state = point_mass(state, mpc.act(goal_cost(state), 3))
    assert num_plans == 30 // execute
    assert (state[:, :2] - GOALS).norm(dim=-1).max() < 0.3


def test_the_warm_start_is_the_plan_shifted_by_what_was_executed():
    plan = ramp(2, 5)
    script = Script(plan, plan)
    mpc = MPC(script, box(9.0, 1), MPCConfig(horizon=5, execute=2, init_std=0.3))
    assert mpc.needs_plan
    torch.testing.assert_close(mpc.act(energy, 2), plan[:, 0])
    assert not mpc.needs_plan
    torch.testing.assert_close(mpc.act(energy, 2), plan[:, 1])
    assert mpc.needs_plan
    mpc.act(energy, 2)
    assert torch.equal(script.means[0], torch.zeros(2, 5, 1))
    torch.testing.assert_close(script.means[1][:, :, 0], plan[:, [2, 3, 4, 4, 4], 0])
    assert all(torch.equal(std, torch.full((2, 5, 1), 0.3)) for std in script.stds)


def test_shifted_macro_actions_are_averaged_back_to_knots():
    knots = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1)
    script = Script(knots, knots)
    mpc = MPC(script, box(9.0, 1), MPCConfig(horizon=6, action_repeat=2, execute=3))
    taken = [mpc.act(energy, 1).item() for _ in range(4)]
    assert taken == [1.0, 1.0, 2.0, 1.0]
    # 1 1 2 2 4 4, shifted by three: 2 4 | 4 4 | 4 4
    torch.testing.assert_close(script.means[1].flatten(), torch.tensor([3.0, 4.0, 4.0]))
    assert mpc.last_plan.actions.flatten().tolist() == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    assert mpc.last_plan.mean.shape == mpc.last_plan.std.shape == (1, 6, 1)


def test_reset_of_a_mask_forgets_those_problems_only():
    plan = ramp(3, 4) + 1
    script = Script(plan, plan)
    mpc = MPC(script, box(9.0, 1), MPCConfig(horizon=4, execute=3))
    mpc.act(energy, 3)
    mpc.reset(torch.tensor([False, True, False]))
    assert mpc.needs_plan
    mpc.act(energy, 3)
    torch.testing.assert_close(script.means[1][[0, 2], :, 0], plan[[0, 2]][:, [1, 2, 3, 3], 0])
    assert torch.equal(script.means[1][1], torch.zeros(4, 1))


def test_two_resets_before_a_plan_add_up():
    script = Script(ramp(3, 4) + 1, ramp(3, 4))
    mpc = MPC(script, box(9.0, 1), MPCConfig(horizon=4, execute=3))
    mpc.act(energy, 3)
    mpc.reset(torch.tensor([True, False, False]))
    mpc.reset(torch.tensor([False, True, False]))
    mpc.act(energy, 3)
    assert torch.equal(script.means[1][:2], torch.zeros(2, 4, 1))
    torch.testing.assert_close(script.means[1][2, :, 0], torch.tensor([3.1, 3.2, 3.3, 3.3]))


def test_an_empty_mask_changes_nothing():
    mpc = MPC(Script(ramp(2, 4)), box(9.0, 1), MPCConfig(horizon=4, execute=3))
    mpc.act(energy, 2)
    mpc.reset(torch.zeros(2, dtype=torch.bool))
    assert not mpc.needs_plan


def test_a_full_reset_forgets_everything_and_allows_another_number_of_problems():
    script = Script(ramp(3, 4) + 1, ramp(2, 4))
    mpc = MPC(script, box(9.0, 1), MPCConfig(horizon=4, execute=3))
    mpc.act(energy, 3)
    mpc.reset()
    assert mpc.needs_plan
    mpc.act(energy, 2)
    assert torch.equal(script.means[1], torch.zeros(2, 4, 1))


def test_a_cold_start_is_zero_projected():
    bounds = box(1.0, 1)
    bounds = type(bounds)(torch.tensor([0.5]), torch.tensor([2.0]))
    script = Script(torch.ones(1, 4, 1), torch.ones(1, 4, 1))
    mpc = MPC(script, bounds, MPCConfig(horizon=4, warm_start=False))
    mpc.act(energy, 1)
    mpc.act(energy, 1)
    assert all(torch.equal(mean, torch.full((1, 4, 1), 0.5)) for mean in script.means)


def test_the_cost_is_built_only_when_a_plan_is_made():
    num_built = 0

    def build():
        nonlocal num_built
        num_built += 1
        return energy

    mpc = MPC(Script(*[ramp(1, 4)] * 2), box(9.0, 1), MPCConfig(horizon=4, execute=3))
    for _ in range(4):
        mpc.act(build, 1)
    assert num_built == 2


@pytest.mark.parametrize("repeat", [1, 2])
def test_proposals_arrive_in_knots(repeat):
    script = Script(torch.zeros(2, 4 // repeat, 1))
    mpc = MPC(script, box(9.0, 1), MPCConfig(horizon=4, action_repeat=repeat))
    proposals = ramp(2, 4)[:, None]
    mpc.act(energy, 2, proposals=proposals)
    expected = proposals if repeat == 1 else proposals.unflatten(2, (2, 2)).mean(dim=3)
    torch.testing.assert_close(script.proposals[0], expected)


def test_the_returned_action_is_the_callers_own():
    mpc = MPC(Script(ramp(2, 4) + 1), box(9.0, 1), MPCConfig(horizon=4, execute=2))
    mpc.act(energy, 2).zero_()
    torch.testing.assert_close(mpc.last_plan.actions, ramp(2, 4) + 1)


def test_a_shift_past_the_end_holds_the_last_action():
    assert shift_plan(ramp(1, 3), 5).flatten().tolist() == pytest.approx([0.2, 0.2, 0.2])


def test_same_seed_same_actions():
    taken = []
    for _ in range(2):
        mpc = MPC(make_planner("icem", **SMALL["icem"]), box(1.0, 2), MPCConfig(), generator=seeded(3))
        taken.append(torch.stack([mpc.act(goal_cost(torch.zeros(3, 4)), 3) for _ in range(3)]))
    assert torch.equal(*taken)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"horizon": 0}, "horizon must be >= 1, got 0"),
        ({"horizon": 8, "action_repeat": 3}, "action_repeat must be a divisor of horizon 8, got 3"),
        ({"action_repeat": 0}, "action_repeat must be >= 1, got 0"),
        ({"execute": 9}, "execute must be <= horizon 8, got 9"),
        ({"execute": 0}, "execute must be >= 1, got 0"),
        ({"init_std": 0.0}, "init_std must be finite and > 0, got 0.0"),
        ({"max_rows": 0}, "max_rows must be >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        MPCConfig(**settings)


def test_bad_calls_are_refused():
    mpc = MPC(Script(ramp(2, 8)), box(9.0, 1), MPCConfig(execute=2))
    with pytest.raises(ValueError, match=r"proposals must be of shape \(2, P, 8, 1\), got \(2, 1, 4, 1\)"):
        mpc.act(energy, 2, proposals=torch.zeros(2, 1, 4, 1))
    with pytest.raises(ValueError, match="num_problems must be >= 1, got 0"):
        mpc.act(energy, 0)
    mpc.act(energy, 2)
    with pytest.raises(ValueError, match=r"num_problems must be 2 until reset\(\), got 3"):
        mpc.act(energy, 3)
    with pytest.raises(ValueError, match=r"mask must be of shape \(2\), got \(3,\)"):
        mpc.reset(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be of dtype torch.bool, got torch.int64"):
        mpc.reset(torch.ones(2, dtype=torch.int64))
