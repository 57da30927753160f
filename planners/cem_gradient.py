"""CEM, then Adam from its elites (after Bharadhwaj et al. 2020, arXiv 2004.08763).

The paper interleaves gradient steps with the iterations of CEM; here they follow the last one, which costs no
gradient while the search is still wide.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.cem import CEMConfig, cem_search
from planners.checks import require, require_count
from planners.gradient import GradientConfig, descend
from planners.plan import CostFn, Plan
from planners.search import Found, begin, finish


@dataclass(frozen=True)
class CEMGradientConfig:
    """Hyperparameters of :func:`cem_gradient`: those of CEM, then those of the descent."""

    num_samples: int = 256  # N, candidates per iteration of CEM
    num_elites: int = 32  # candidates that the Gaussian is refitted to
    num_iters: int = 4  # of CEM
    min_std: float = 0.05  # floor that keeps the search alive [action units]
    momentum: float = 0.0  # share of the previous mean and std in the refitted ones, [0, 1)
    noise_spread: float = 1.0  # noise scale of the last candidate, geometric from 1, (0, 1]
    noise_beta: float = 0.0  # power spectrum 1/f^beta of the noise along H
    include_mean: bool = True  # the mean takes the place of the first candidate
    num_refined: int = 8  # plans refined per problem: the best seen and the last elites, <= num_elites
    num_steps: int = 20  # Adam steps
    learning_rate: float = 0.05  # size of the first steps [action units]
    lr_decay: float = 0.1  # last learning rate over the first, geometric in between, (0, 1]
    beta1: float = 0.9  # decay of the mean gradient, [0, 1)
    beta2: float = 0.99  # decay of the mean squared gradient, [0, 1)
    max_grad_norm: float | None = None  # longer gradients are scaled down, per candidate over H and A

    def __post_init__(self) -> None:
        require_count("num_refined", self.num_refined)
        require_count("num_steps", self.num_steps)
        require(self.num_refined <= self.num_elites, "num_refined", "<= num_elites", self.num_refined)
        _ = self.search, self.descent  # their own checks

    @property
    def search(self) -> CEMConfig:
        """Hyperparameters of the first part."""
        return CEMConfig(
            num_samples=self.num_samples,
            num_elites=self.num_elites,
            num_iters=self.num_iters,
            min_std=self.min_std,
            momentum=self.momentum,
            noise_spread=self.noise_spread,
            noise_beta=self.noise_beta,
            include_mean=self.include_mean,
        )

    @property
    def descent(self) -> GradientConfig:
        """Hyperparameters of the second part."""
        return GradientConfig(
            num_restarts=self.num_refined,
            num_iters=self.num_steps,
            learning_rate=self.learning_rate,
            lr_decay=self.lr_decay,
            beta1=self.beta1,
            beta2=self.beta2,
            max_grad_norm=self.max_grad_norm,
        )


@torch.no_grad()
def cem_gradient(
    cost_fn: CostFn,
    mean: Tensor,
    std: Tensor,
    bounds: ActionBounds,
    config: CEMGradientConfig = CEMGradientConfig(),
    *,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Minimise a differentiable ``cost_fn`` with CEM, then refine the last elites with Adam.

    Arguments are those of :func:`planners.cem`, errors those of :func:`planners.gradient`. The plan's
    ``mean`` and ``std`` are those of CEM; its ``history`` has ``num_iters + num_steps`` rows.
    """
    start, best = begin(mean, std, bounds, proposals)
    searched = cem_search(cost_fn, start, best, config.search, generator)
    elites = searched.elites[:, : config.num_refined - 1]
    candidates = torch.cat((searched.best.actions[:, None], elites), dim=1)
    refined = descend(cost_fn, start, searched.best, candidates, config.descent)
    history = searched.history + refined.history
    return finish(cost_fn, start, Found(refined.best, refined.elites, searched.mean, searched.std, history))
