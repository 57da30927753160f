"""Speed of the planners on one small learned dynamics model.

The setting is a common one: 300 samples, horizon 10, 30 iterations, a dynamics MLP, 50 problems. Each row
measures batched planning beside the same planner looped over the problems one at a time, in the same run.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from planners import ActionBounds, CostFn, Planner, chunk_candidates, make_planner

EMBEDDING_DIM, ACTION_DIM, WIDTH = 32, 2, 64


def make_cost(goals: Tensor, model: nn.Module) -> CostFn:
    """Return the squared distance to goals ``(B, D)`` after rolling ``model`` out from zero."""

    def cost_fn(actions: Tensor) -> Tensor:
        num_problems, num_samples, horizon, _ = actions.shape
        state = actions.new_zeros(num_problems, num_samples, EMBEDDING_DIM)
        for step in range(horizon):
            state = state + model(torch.cat((state, actions[:, :, step]), dim=-1))
        return (state - goals[:, None]).square().sum(dim=-1)

    return cost_fn


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of one call [s]; the first call is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def plan_each(plan: Callable[[Tensor], None], goals: Tensor) -> None:
    """Plan for goals ``(B, D)`` one at a time."""
    for goal in goals:
        plan(goal[None])


def run(smoke: bool = False) -> list[dict]:
    """Measure and return rows of ``name, value, unit, target, baseline_name, baseline_value``."""
    num_problems, repeats = (4, 1) if smoke else (50, 2)
    num_iters = 3 if smoke else 30
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(EMBEDDING_DIM + ACTION_DIM, WIDTH), nn.ReLU(), nn.Linear(WIDTH, EMBEDDING_DIM)
        )
    goals = torch.randn(num_problems, EMBEDDING_DIM, generator=generator)
    bounds = ActionBounds(-torch.ones(ACTION_DIM), torch.ones(ACTION_DIM))
    rows = []
    for name, num_elites in (("cem", 30), ("mppi", 64)):
        planner = make_planner(name, num_samples=300, num_elites=num_elites, num_iters=num_iters)

        def plan(part: Tensor, max_rows: int | None = None, planner: Planner = planner) -> None:
            cost_fn = make_cost(part, model)
            if max_rows is not None:
                cost_fn = chunk_candidates(cost_fn, max_rows)
            mean = torch.zeros(len(part), 10, ACTION_DIM)
            planner(cost_fn, mean, torch.ones_like(mean), bounds, generator=generator)

        with torch.no_grad():
            looped = seconds(partial(plan_each, plan, goals), repeats)
            whole = seconds(partial(plan, goals), repeats)
            chunked = {
                rows_at_once: seconds(partial(plan, goals, rows_at_once), repeats)
                for rows_at_once in (1024, 2048, 4096)
            }
        max_rows, fastest = min(chunked.items(), key=lambda item: item[1])
        looped_name = f"{name} looped, {1000 * looped / num_problems:.1f} ms per problem"
        rows.append(_row(f"{name}, {num_problems} problems in a batch", whole, looped_name, looped))
        rows.append(_row(f"{name}, in chunks of {max_rows} rows", fastest, looped_name, looped))
        rows.append(_row(f"{name}, chunks against none", fastest, f"{name} unchunked", whole))
    return rows


def _row(name: str, value: float, baseline_name: str, baseline: float) -> dict:
    return {
        "name": f"plan: {name}",
        "value": 1000 * value,
        "unit": "ms",
        "target": None,
        "baseline_name": baseline_name,
        "baseline_value": 1000 * baseline,
    }
