"""Problems with known optima, and the settings each planner solves them with."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from planners import ActionBounds, CostFn, Plan, Planner, make_planner

SOLVERS: dict[str, Planner] = {
    "random_shooting": make_planner("random_shooting", num_samples=4096, noise_spread=0.02),
    "cem": make_planner("cem", num_samples=256, num_elites=24, num_iters=24, min_std=0.002, momentum=0.1),
    "icem": make_planner(
        "icem", num_samples=400, num_elites=32, num_iters=30, min_std=0.002, noise_beta=0.25
    ),
    "mppi": make_planner("mppi", num_samples=256, num_elites=48, num_iters=24, min_std=0.002, momentum=0.1),
    "gradient": make_planner("gradient", num_restarts=64, num_iters=100, learning_rate=0.3, lr_decay=0.01),
    "cem_gradient": make_planner("cem_gradient", num_iters=8, num_steps=60),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box(size: float, action_dim: int, max_norm: float | None = None) -> ActionBounds:
    return ActionBounds(torch.full((action_dim,), -size), torch.full((action_dim,), size), max_norm)


@dataclass(frozen=True)
class Problem:
    """A batch of two problems of one kind."""

    cost_fn: CostFn
    bounds: ActionBounds
    horizon: int
    optimum: np.ndarray  # (B,) least possible cost
    tolerance: float  # allowed excess over the optimum, absolute
    looser: dict[str, float] = field(
        default_factory=dict
    )  # by planner, where the method is expected to be worse
    std: float = 1.0

    def solve(self, planner: Planner, seed: int = 0) -> Plan:
        mean = torch.zeros(len(self.optimum), self.horizon, self.bounds.action_dim)
        return planner(
            self.cost_fn, mean, torch.full_like(mean, self.std), self.bounds, generator=seeded(seed)
        )


def quadratic() -> Problem:
    target = torch.tensor([0.7, -0.4]).view(2, 1, 1, 1)
    weights = torch.tensor([1.0, 10.0])  # per action component
    return Problem(
        cost_fn=lambda actions: ((actions - target).square() * weights).sum(dim=(-2, -1)),
        bounds=box(2.0, 2),
        horizon=4,
        optimum=np.zeros(2),
        tolerance=2e-3,
        looser={"random_shooting": 6.0},
    )


def optimum_on_the_bound() -> Problem:
    target = torch.tensor([3.0, -1.5]).view(2, 1, 1, 1)
    return Problem(
        cost_fn=lambda actions: (actions - target).square().sum(dim=(-2, -1)),
        bounds=box(1.0, 2),
        horizon=5,
        optimum=np.array([10 * 4.0, 10 * 0.25]),
        tolerance=0.03,
        looser={"random_shooting": 25.0},
    )


def multimodal() -> Problem:
    """Rastrigin-like: about 5^4 local minima in the box, the second best costs 0.95.

    Descent from 64 starts seldom begins in the best basin and is asked for the second best.
    """
    target = torch.tensor([0.3, -0.6]).view(2, 1, 1, 1)

    def cost_fn(actions: Tensor) -> Tensor:
        offset = actions - target
        return (offset.square() + 1 - torch.cos(2 * torch.pi * offset)).sum(dim=(-2, -1))

    return Problem(
        cost_fn,
        box(2.0, 1),
        4,
        np.zeros(2),
        tolerance=5e-3,
        looser={"random_shooting": 4.0, "gradient": 1.0},
        std=1.5,
    )


def double_integrator() -> Problem:
    """Push a mass from rest to 3 or -2 and stop, forces within 1; the optimum is bounded least squares."""
    horizon, goals, dt = 10, (3.0, -2.0), 0.5
    lag = np.arange(horizon - 1, -1, -1)
    position = dt**2 * (lag + 0.5)  # of the last state, per unit of each force
    matrix = np.stack([position, np.full(horizon, dt)])
    rows = np.concatenate([matrix, np.sqrt(0.01) * np.eye(horizon)])
    optimum = []
    for goal in goals:
        target = np.concatenate([[goal, 0.0], np.zeros(horizon)])
        optimum.append(2 * lsq_linear(rows, target, bounds=(-1, 1), tol=1e-14).cost)
    goal = torch.tensor(goals).view(2, 1)
    response = torch.tensor(matrix, dtype=torch.float32)

    def cost_fn(actions: Tensor) -> Tensor:
        force = actions[..., 0]  # (B, N, H)
        end = force @ response.T  # (B, N, 2)
        return (end[..., 0] - goal).square() + end[..., 1].square() + 0.01 * force.square().sum(dim=-1)

    return Problem(
        cost_fn, box(1.0, 1), horizon, np.array(optimum), tolerance=5e-3, looser={"random_shooting": 1.0}
    )


def narrow_ball() -> Problem:
    """A linear cost on a ball of radius 0.1, drawn with std 1: the optimum is a point on the sphere."""
    slope = torch.tensor([[1.0, 2.0, -2.0], [-3.0, 0.0, 4.0]]).view(2, 1, 1, 3)
    return Problem(
        cost_fn=lambda actions: (actions * slope).sum(dim=(-2, -1)),
        bounds=box(1.0, 3, max_norm=0.1),
        horizon=3,
        optimum=np.array([-0.1 * 3 * 3.0, -0.1 * 3 * 5.0]),
        tolerance=2e-3,
        looser={"random_shooting": 0.5},
    )


def sparse() -> Problem:
    """Flat at 1 but for a cone of radius 0.8 around the target, where the cost falls to 0."""
    target = torch.tensor([[1.0, 0.5], [-0.8, 1.0]]).view(2, 1, 2)

    def cost_fn(actions: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(actions.sum(dim=2) - target, dim=-1)
        return (distance / 0.8).clamp_max(1.0)

    return Problem(
        cost_fn, box(1.0, 2), 3, np.zeros(2), tolerance=1e-2, looser={"random_shooting": 0.2, "icem": 0.05}
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    function.__name__: function
    for function in (quadratic, optimum_on_the_bound, multimodal, double_integrator, narrow_ball, sparse)
}
