import numpy as np
import pytest
import torch

from planners import PLANNERS
from tests.planners.problems import PROBLEMS, SOLVERS, Problem, box


def test_every_planner_has_solver_settings():
    assert set(SOLVERS) == set(PLANNERS)


@pytest.mark.parametrize("problem_name", PROBLEMS)
@pytest.mark.parametrize("planner_name", SOLVERS)
def test_planner_reaches_the_known_optimum(planner_name, problem_name):
    problem = PROBLEMS[problem_name]()
    plan = problem.solve(SOLVERS[planner_name])
    excess = plan.cost.double().numpy() - problem.optimum
    assert (excess > -1e-4).all(), "cheaper than possible: the plan leaves the bounds or misstates its cost"
    assert (excess < problem.looser.get(planner_name, problem.tolerance)).all(), excess
    assert problem.bounds.contains(plan.actions).all()
    torch.testing.assert_close(plan.cost, problem.cost_fn(plan.actions[:, None])[:, 0], rtol=1e-4, atol=1e-5)


def riccati(transition, control, state_cost, action_cost, start, horizon):
    """Optimal cost and actions of the finite-horizon LQR, in float64."""
    value, gains = state_cost, []
    for _ in range(horizon):
        gain = np.linalg.solve(action_cost + control.T @ value @ control, control.T @ value @ transition)
        gains.append(gain)
        value = state_cost + transition.T @ value @ (transition - control @ gain)
    state, actions = start, []
    for gain in reversed(gains):
        actions.append(-gain @ state)
        state = transition @ state + control @ actions[-1]
    return start @ value @ start, np.stack(actions)


def lqr_problem(horizon=8):
    """Two axes of a damped mass, coupled; two start states."""
    transition = np.array([[1, 0.3, 0, 0], [0, 0.9, 0.1, 0], [0, 0, 1, 0.3], [0, 0, 0, 0.8]])
    control = np.array([[0, 0], [0.5, 0.1], [0, 0], [0, 0.4]])
    state_cost, action_cost = np.diag([1.0, 0.1, 2.0, 0.1]), 0.1 * np.eye(2)
    starts = np.array([[2.0, 0.0, -1.0, 0.5], [-1.0, 1.0, 1.5, 0.0]])
    solved = [riccati(transition, control, state_cost, action_cost, start, horizon) for start in starts]
    a, b, q, r = (
        torch.tensor(m, dtype=torch.float32) for m in (transition, control, state_cost, action_cost)
    )

    def cost_fn(actions):
        state = torch.tensor(starts, dtype=torch.float32)[:, None].expand(-1, actions.shape[1], -1)
        cost = ((state @ q) * state).sum(-1)
        for step in range(horizon):
            action = actions[:, :, step]
            state = state @ a.T + action @ b.T
            cost = cost + ((state @ q) * state).sum(-1) + ((action @ r) * action).sum(-1)
        return cost

    optimum = np.array([cost for cost, _ in solved])
    actions = torch.tensor(np.stack([actions for _, actions in solved]), dtype=torch.float32)
    return Problem(cost_fn, box(20.0, 2), horizon, optimum, tolerance=0.0, std=2.0), actions


def test_lqr_reference_agrees_with_the_cost_function():
    problem, actions = lqr_problem()
    np.testing.assert_allclose(problem.cost_fn(actions[:, None])[:, 0], problem.optimum, rtol=1e-5)


@pytest.mark.parametrize(
    ("planner_name", "tolerance"),
    [("cem", 0.005), ("icem", 0.015), ("mppi", 0.005), ("gradient", 0.005), ("cem_gradient", 0.001)],
)
def test_planner_reaches_the_lqr_optimum(planner_name, tolerance):
    problem, _ = lqr_problem()
    plan = problem.solve(SOLVERS[planner_name])
    excess = plan.cost.double().numpy() / problem.optimum - 1
    assert (excess > -1e-5).all()
    assert (excess < tolerance).all(), excess
