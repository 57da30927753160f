"""Model-predictive path integral control (Williams et al. 2015, arXiv 1509.01149).

The mean moves to the average of the candidates under weights ``exp(-(c - min c) / (temperature * scale))``.
The paper leaves the temperature in units of the cost; here ``scale`` is each problem's mean of ``c - min c``
over the weighted candidates, so that the plan does not change when a constant is added to the cost or when it
is multiplied by one. Weighting elites only and refitting the std follow TD-MPC (Hansen et al. 2022, arXiv
2203.04955).
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
class MPPIConfig:
    """Hyperparameters of :func:`mppi`; holds no tensors and no state."""

    num_samples: int = 256  # N, candidates per iteration
    num_elites: int | None = 64  # candidates that are weighted; None weights all
    num_iters: int = 6
    temperature: float = 0.5  # in units of the mean excess over the best cost; towards 0 only the best counts
    momentum: float = 0.0  # share of the previous mean and std in the refitted ones, [0, 1)
    refit_std: bool = (
        True  # std follows the weighted candidates; False keeps the initial one, as in the paper
    )
    min_std: float = 0.05  # floor of a refitted std [action units]
    noise_spread: float = 1.0  # noise scale of the last candidate, geometric from 1, (0, 1]
    noise_beta: float = 0.0  # power spectrum 1/f^beta of the noise along H
    include_mean: bool = True  # the mean takes the place of the first candidate
    return_mean: bool = True  # the plan is the final mean, not the best candidate seen

    def __post_init__(self) -> None:
        require_count("num_samples", self.num_samples)
        require_count("num_iters", self.num_iters)
        if self.num_elites is not None:
            require_count("num_elites", self.num_elites)
            require(self.num_elites <= self.num_samples, "num_elites", "<= num_samples", self.num_elites)
        require(0 < self.temperature < float("inf"), "temperature", "finite and > 0", self.temperature)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(0 <= self.min_std < float("inf"), "min_std", "finite and >= 0", self.min_std)
        require(0 < self.noise_spread <= 1, "noise_spread", "in (0, 1]", self.noise_spread)
        require(0 <= self.noise_beta < float("inf"), "noise_beta", "finite and >= 0", self.noise_beta)


@torch.no_grad()
def mppi(
    cost_fn: CostFn,
    mean: Tensor,
    std: Tensor,
    bounds: ActionBounds,
    config: MPPIConfig = MPPIConfig(),
    *,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Minimise ``cost_fn`` over action sequences by exponentially weighted averages.

    Arguments and errors are those of :func:`planners.cem`.
    """
    start, best = begin(mean, std, bounds, proposals)
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
        if config.num_elites is not None:
            actions, cost = select_elites(actions, cost, config.num_elites)
        weights = path_weights(cost, config.temperature)
        mean, new_std = refit(mean, std, actions, weights, momentum=config.momentum, min_std=config.min_std)
        std = new_std if config.refit_std else std
        extra = extra[:, :0]  # proposals join once
        history.append(best.cost)
    return finish(cost_fn, start, Found(best, actions, mean, std, history), return_mean=config.return_mean)


def path_weights(cost: Tensor, temperature: float) -> Tensor:
    """Return weights ``(B, N)`` for costs ``(B, N)``: the best weighs 1, an ``inf`` cost 0."""
    is_finite = torch.isfinite(cost)
    excess = torch.where(is_finite, cost - cost.min(dim=1, keepdim=True).values, 0.0)
    scale = excess.sum(dim=1, keepdim=True) / is_finite.sum(dim=1, keepdim=True).clamp_min(1)
    scale = scale.clamp_min(torch.finfo(cost.dtype).tiny)  # equal costs weigh the same
    return torch.exp(-excess / scale / temperature) * is_finite
