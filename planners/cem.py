"""Cross-entropy method (Rubinstein 1999; for planning: Chua et al. 2018, PETS, arXiv 1805.12114)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.checks import require, require_count
from planners.noise import noise_source
from planners.plan import CostFn, Plan
from planners.search import (
    Best,
    Found,
    Start,
    begin,
    candidates_around,
    evaluate,
    finish,
    refit,
    select_elites,
)


@dataclass(frozen=True)
class CEMConfig:
    """Hyperparameters of :func:`cem`; holds no tensors and no state."""

    num_samples: int = 256  # N, candidates per iteration
    num_elites: int = 32  # candidates that the Gaussian is refitted to
    num_iters: int = 6
    min_std: float = 0.05  # floor that keeps the search alive [action units]
    momentum: float = 0.0  # share of the previous mean and std in the refitted ones, [0, 1)
    noise_spread: float = 1.0  # noise scale of the last candidate, geometric from 1, (0, 1]
    noise_beta: float = 0.0  # power spectrum 1/f^beta of the noise along H
    include_mean: bool = True  # the mean takes the place of the first candidate
    return_mean: bool = False  # the plan is the final mean, not the best candidate seen

    def __post_init__(self) -> None:
        require_count("num_samples", self.num_samples)
        require_count("num_elites", self.num_elites)
        require_count("num_iters", self.num_iters)
        require(self.num_elites <= self.num_samples, "num_elites", "<= num_samples", self.num_elites)
        require(0 <= self.min_std < float("inf"), "min_std", "finite and >= 0", self.min_std)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(0 < self.noise_spread <= 1, "noise_spread", "in (0, 1]", self.noise_spread)
        require(0 <= self.noise_beta < float("inf"), "noise_beta", "finite and >= 0", self.noise_beta)


@torch.no_grad()
def cem(
    cost_fn: CostFn,
    mean: Tensor,
    std: Tensor,
    bounds: ActionBounds,
    config: CEMConfig = CEMConfig(),
    *,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Minimise ``cost_fn`` over action sequences with the cross-entropy method.

    Args:
        cost_fn: actions ``(B, N, H, A)`` to cost ``(B, N)``.
        mean: ``(B, H, A)`` first sampling mean.
        std: ``(B, H, A)`` first sampling standard deviation [action units].
        bounds: every candidate lies inside them.
        config: hyperparameters.
        proposals: ``(B, P, H, A)`` candidates that join the first iteration, such as a policy's rollout.
        generator: source of randomness; one draw serves all problems.

    Raises:
        ValueError: a shape does not fit, or ``cost_fn`` returns another shape than ``(B, N)``.
    """
    start, best = begin(mean, std, bounds, proposals)
    found = cem_search(cost_fn, start, best, config, generator)
    return finish(cost_fn, start, found, return_mean=config.return_mean)


def cem_search(
    cost_fn: CostFn, start: Start, best: Best, config: CEMConfig, generator: torch.Generator | None
) -> Found:
    """Run the iterations of :func:`cem`."""
    draw = noise_source(start.mean, generator, beta=config.noise_beta, spread=config.noise_spread)
    mean, std, extra = start.mean, start.std, start.proposals
    history = []
    for _ in range(config.num_iters):
        noise = draw(config.num_samples)  # (N, H, A)
        if config.include_mean:
            noise[0] = 0.0
        actions = candidates_around(start, mean, std, noise, extra)
        cost = evaluate(cost_fn, actions)
        best = best.update(actions, cost)
        elites, elite_cost = select_elites(actions, cost, config.num_elites)
        weights = torch.isfinite(elite_cost).to(cost.dtype)
        mean, std = refit(mean, std, elites, weights, momentum=config.momentum, min_std=config.min_std)
        extra = extra[:, :0]  # proposals join once
        history.append(best.cost)
    return Found(best, elites, mean, std, history)
