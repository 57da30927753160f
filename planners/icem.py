"""Improved CEM (Pinneri et al. 2020, *Sample-efficient cross-entropy method*, arXiv 2008.06389).

Of the paper: coloured noise, a population that shrinks, elites kept from one iteration to the next, the mean
among the last iteration's candidates, the best candidate executed. Elites are not carried over env steps; the
shifted plan that :class:`planners.MPC` warm-starts with takes that part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.checks import require, require_count
from planners.noise import noise_source
from planners.plan import CostFn, Plan
from planners.search import Found, begin, candidates_around, evaluate, finish, refit, select_elites


@dataclass(frozen=True)
class ICEMConfig:
    """Hyperparameters of :func:`icem`; holds no tensors and no state."""

    num_samples: int = 256  # N, candidates of the first iteration, besides kept elites and proposals
    num_elites: int = 32  # candidates that the Gaussian is refitted to, at most half of num_samples
    num_iters: int = 6
    noise_beta: float = 2.0  # power spectrum 1/f^beta of the noise along H
    decay: float = 1.25  # each iteration draws 1/decay as many candidates, never below 2 num_elites
    keep_fraction: float = 0.3  # share of the elites that joins the next iteration's candidates
    momentum: float = 0.1  # share of the previous mean and std in the refitted ones, [0, 1)
    min_std: float = 0.05  # floor that keeps the search alive [action units]

    def __post_init__(self) -> None:
        require_count("num_samples", self.num_samples)
        require_count("num_elites", self.num_elites)
        require_count("num_iters", self.num_iters)
        require(2 * self.num_elites <= self.num_samples, "num_elites", "<= num_samples / 2", self.num_elites)
        require(0 <= self.noise_beta < float("inf"), "noise_beta", "finite and >= 0", self.noise_beta)
        require(1 <= self.decay < float("inf"), "decay", "finite and >= 1", self.decay)
        require(0 <= self.keep_fraction <= 1, "keep_fraction", "in [0, 1]", self.keep_fraction)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(0 <= self.min_std < float("inf"), "min_std", "finite and >= 0", self.min_std)

    @property
    def population(self) -> list[int]:
        """Candidates drawn in each iteration."""
        sizes = (int(self.num_samples / self.decay**i) for i in range(self.num_iters))
        return [max(size, 2 * self.num_elites) for size in sizes]

    @property
    def num_kept(self) -> int:
        """Elites that join the next iteration."""
        return round(self.keep_fraction * self.num_elites)


@torch.no_grad()
def icem(
    cost_fn: CostFn,
    mean: Tensor,
    std: Tensor,
    bounds: ActionBounds,
    config: ICEMConfig = ICEMConfig(),
    *,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Minimise ``cost_fn`` over action sequences with the improved cross-entropy method.

    Arguments and errors are those of :func:`planners.cem`. The plan is the best candidate seen.
    """
    start, best = begin(mean, std, bounds, proposals)
    draw = noise_source(start.mean, generator, beta=config.noise_beta)
    mean, std, extra = start.mean, start.std, start.proposals
    history = []
    for iteration, num_samples in enumerate(config.population):
        noise = draw(num_samples)  # (N, H, A)
        if iteration == config.num_iters - 1:
            noise[0] = 0.0
        actions = candidates_around(start, mean, std, noise, extra)
        cost = evaluate(cost_fn, actions)
        best = best.update(actions, cost)
        elites, elite_cost = select_elites(actions, cost, config.num_elites)
        weights = torch.isfinite(elite_cost).to(cost.dtype)
        mean, std = refit(mean, std, elites, weights, momentum=config.momentum, min_std=config.min_std)
        extra = elites[:, : config.num_kept]
        history.append(best.cost)
    return finish(cost_fn, start, Found(best, elites, mean, std, history))
