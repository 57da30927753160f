"""Planners: they minimise a cost over action sequences, for many problems at once.

| algorithm | reference (arXiv) | import |
|---|---|---|
| random shooting | Nagabandi et al. 2018, 1708.02596 | `from planners import random_shooting` |
| cross-entropy method (CEM) | Rubinstein 1999; Chua et al. 2018, 1805.12114 | `from planners import cem` |
| improved CEM (iCEM) | Pinneri et al. 2020, 2008.06389 | `from planners import icem` |
| model-predictive path integral (MPPI) | Williams et al. 2015, 1509.01149 | `from planners import mppi` |
| Adam from parallel starts | Kingma and Ba 2015, 1412.6980 | `from planners import gradient` |
| CEM, then Adam | Bharadhwaj et al. 2020, 2004.08763 | `from planners import cem_gradient` |
| receding horizon with warm start | Mayne et al. 2000 | `from planners import MPC` |

A planner is a function ``(cost_fn, mean, std, bounds, config, *, proposals, generator) -> Plan`` and knows
the model only through ``cost_fn``: actions ``(B, N, H, A)`` to cost ``(B, N)``, lower is better. All of them
hold to this:

- every candidate they evaluate and every plan they return lies inside the bounds;
- a candidate whose cost is NaN or infinite is never chosen and never averaged in;
- one draw of noise serves all problems, so a problem's plan is the same alone and in a batch;
- an iteration never waits for a device: no value of a tensor decides a branch.
"""

from planners.bounds import ActionBounds
from planners.cem import CEMConfig, cem
from planners.cem_gradient import CEMGradientConfig, cem_gradient
from planners.chunking import chunk_candidates
from planners.gradient import GradientConfig, gradient
from planners.icem import ICEMConfig, icem
from planners.macro import average_actions, repeat_actions, with_action_repeat
from planners.mpc import MPC, MPCConfig, shift_plan
from planners.mppi import MPPIConfig, mppi
from planners.noise import colour_filter
from planners.plan import CostFn, Plan, Planner
from planners.random_shooting import RandomShootingConfig, random_shooting
from planners.registry import PLANNERS, make_planner

__all__ = [
    "MPC",
    "PLANNERS",
    "ActionBounds",
    "CEMConfig",
    "CEMGradientConfig",
    "CostFn",
    "GradientConfig",
    "ICEMConfig",
    "MPCConfig",
    "MPPIConfig",
    "Plan",
    "Planner",
    "RandomShootingConfig",
    "average_actions",
    "cem",
    "cem_gradient",
    "chunk_candidates",
    "colour_filter",
    "gradient",
    "icem",
    "make_planner",
    "mppi",
    "random_shooting",
    "repeat_actions",
    "shift_plan",
    "with_action_repeat",
]
