"""Every field of every config changes the plan: none is accepted and ignored."""

from dataclasses import fields, replace

import pytest
import torch

from planners import MPC, PLANNERS, MPCConfig, make_planner
from tests.planners.problems import box, seeded
from tests.planners.test_properties import SMALL, bumpy, targets

OTHER_VALUES = {
    "num_samples": 80,
    "num_elites": 12,
    "num_iters": 6,
    "min_std": 0.9,
    "momentum": 0.5,
    "noise_spread": 0.1,
    "noise_beta": 1.0,
    "include_mean": False,
    "decay": 3.0,
    "keep_fraction": 0.0,
    "temperature": 0.05,
    "num_restarts": 2,
    "learning_rate": 0.02,
    "lr_decay": 0.9,
    "beta1": 0.5,
    "beta2": 0.5,
    "max_grad_norm": 0.5,
    "num_refined": 1,
    "num_steps": 9,
}
CASES = [(name, field.name) for name, (_, config) in PLANNERS.items() for field in fields(config)]


@pytest.mark.parametrize(("name", "field"), CASES)
def test_every_hyperparameter_moves_the_plan(name, field):
    function, config_class = PLANNERS[name]
    config = config_class(**SMALL[name])
    is_switch = isinstance(getattr(config, field), bool)
    other = replace(config, **{field: not getattr(config, field) if is_switch else OTHER_VALUES[field]})
    mean = torch.full((3, 6, 2), 0.05, dtype=torch.float64)
    plans = [
        function(
            bumpy(targets(3)), mean, torch.full_like(mean, 0.7), box(1.0, 2), setting, generator=seeded(0)
        )
        for setting in (config, other)
    ]
    assert not torch.equal(plans[0].actions, plans[1].actions)


@pytest.mark.parametrize(
    ("field", "other"),
    [("horizon", 10), ("action_repeat", 2), ("execute", 2), ("init_std", 0.2), ("warm_start", False)],
)
def test_every_mpc_setting_moves_the_actions(field, other):
    goal = torch.tensor([[2.0, 1.0], [-1.0, 2.0]])
    config = MPCConfig(horizon=8, init_std=0.6)
    taken = []
    for setting in (config, replace(config, **{field: other})):
        mpc = MPC(make_planner("cem", **SMALL["cem"]), box(0.5, 2), setting, generator=seeded(0))
        position = torch.zeros(2, 2)
        for _ in range(4):
            here = position

            def cost_fn(actions, here=here):
                path = here[:, None, None] + actions.cumsum(dim=2)
                return (path - goal[:, None, None]).square().sum(dim=(-2, -1))

            position = position + mpc.act(cost_fn, 2)
        taken.append(position)
    assert not torch.equal(*taken)


def test_max_rows_limits_what_the_cost_sees_and_changes_nothing_else():
    rows, plans = [], []
    for max_rows in (None, 30):
        mpc = MPC(
            make_planner("cem", **SMALL["cem"]),
            box(0.5, 2),
            MPCConfig(max_rows=max_rows),
            generator=seeded(0),
        )

        def cost_fn(actions, max_rows=max_rows):
            rows.append((max_rows, actions.shape[0] * actions.shape[1]))
            return actions.square().sum(dim=(-2, -1))

        plans.append(mpc.act(cost_fn, 3))
    torch.testing.assert_close(*plans)
    assert max(count for limit, count in rows if limit is None) == 3 * 64
    assert max(count for limit, count in rows if limit == 30) == 30
