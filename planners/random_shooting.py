"""Random shooting: draw candidates once, keep the best (Nagabandi et al. 2018, arXiv 1708.02596)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.checks import require, require_count
from planners.noise import noise_source
from planners.plan import CostFn, Plan
from planners.search import begin, candidates_around, evaluate


@dataclass(frozen=True)
class RandomShootingConfig:
    """Hyperparameters of :func:`random_shooting`; holds no tensors and no state."""

    num_samples: int = 1024  # N, candidates
    noise_spread: float = 1.0  # noise scale of the last candidate, geometric from 1, (0, 1]
    noise_beta: float = 0.0  # power spectrum 1/f^beta of the noise along H
    include_mean: bool = True  # the mean takes the place of the first candidate

    def __post_init__(self) -> None:
        require_count("num_samples", self.num_samples)
        require(0 < self.noise_spread <= 1, "noise_spread", "in (0, 1]", self.noise_spread)
        require(0 <= self.noise_beta < float("inf"), "noise_beta", "finite and >= 0", self.noise_beta)


@torch.no_grad()
def random_shooting(
    cost_fn: CostFn,
    mean: Tensor,
    std: Tensor,
    bounds: ActionBounds,
    config: RandomShootingConfig = RandomShootingConfig(),
    *,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Draw candidates from one Gaussian and return the best.

    Arguments and errors are those of :func:`planners.cem`. The plan's ``mean`` and ``std`` are those drawn
    from, and its ``history`` has one row.
    """
    start, best = begin(mean, std, bounds, proposals)
    noise = noise_source(start.mean, generator, beta=config.noise_beta, spread=config.noise_spread)(
        config.num_samples
    )
    if config.include_mean:
        noise[0] = 0.0
    actions = candidates_around(start, start.mean, start.std, noise, start.proposals)
    best = best.update(actions, evaluate(cost_fn, actions))
    return Plan(best.actions, best.cost, start.mean, start.std, best.cost[None])
