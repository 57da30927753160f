"""Gradient planning: Adam (Kingma and Ba 2015, arXiv 1412.6980) on the actions, from parallel starts.

Descending a learned model's cost in the actions goes back to Jordan and Rumelhart (1992). One start is easily
trapped, so each problem has many, all in one batch; the best plan over starts and iterations is returned.
Each step is followed by the projection onto the bounds.

Where it departs from plain Adam:

- With a ball, the components of an action share one second moment. Scaled one by one, they would turn the
  step away from the gradient, and steps along the sphere would settle beside the optimum.
- A candidate whose cost or gradient is not finite goes back to the problem's best plan with empty moments.
- The gradient comes from ``torch.autograd.grad``, which leaves none on the model's parameters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.checks import require, require_count
from planners.noise import noise_source
from planners.plan import CostFn, Plan
from planners.search import Best, Found, Start, begin, candidates_around, evaluate, finish

EPSILON = (
    1e-12  # of Adam's denominator; small, so that multiplying the cost by a constant does not change the plan
)


@dataclass(frozen=True)
class GradientConfig:
    """Hyperparameters of :func:`gradient`; holds no tensors and no state."""

    num_restarts: int = 16  # N, starts per problem: the mean and N - 1 drawn around it
    num_iters: int = 40  # Adam steps
    learning_rate: float = 0.1  # size of the first steps [action units]
    lr_decay: float = 0.1  # last learning rate over the first, geometric in between, (0, 1]
    beta1: float = 0.9  # decay of the mean gradient, [0, 1)
    beta2: float = 0.99  # decay of the mean squared gradient, [0, 1)
    max_grad_norm: float | None = None  # longer gradients are scaled down, per candidate over H and A
    noise_spread: float = 1.0  # noise scale of the last start, geometric from 1, (0, 1]
    noise_beta: float = 0.0  # power spectrum 1/f^beta of the starts' noise along H

    def __post_init__(self) -> None:
        require_count("num_restarts", self.num_restarts)
        require_count("num_iters", self.num_iters)
        require(0 < self.learning_rate < float("inf"), "learning_rate", "finite and > 0", self.learning_rate)
        require(0 < self.lr_decay <= 1, "lr_decay", "in (0, 1]", self.lr_decay)
        require(0 <= self.beta1 < 1, "beta1", "in [0, 1)", self.beta1)
        require(0 <= self.beta2 < 1, "beta2", "in [0, 1)", self.beta2)
        if self.max_grad_norm is not None:
            require(self.max_grad_norm > 0, "max_grad_norm", "> 0", self.max_grad_norm)
        require(0 < self.noise_spread <= 1, "noise_spread", "in (0, 1]", self.noise_spread)
        require(0 <= self.noise_beta < float("inf"), "noise_beta", "finite and >= 0", self.noise_beta)

    def rate(self, iteration: int) -> float:
        """Learning rate of one iteration [action units]."""
        return self.learning_rate * self.lr_decay ** (iteration / max(1, self.num_iters - 1))


@torch.no_grad()
def gradient(
    cost_fn: CostFn,
    mean: Tensor,
    std: Tensor,
    bounds: ActionBounds,
    config: GradientConfig = GradientConfig(),
    *,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Minimise a differentiable ``cost_fn`` over action sequences with Adam from parallel starts.

    Arguments are those of :func:`planners.cem`; ``proposals`` are further starts. It may be called under
    ``torch.no_grad``. The plan's ``mean`` and ``std`` are those of the candidates after the last step.

    Raises:
        ValueError: a shape does not fit, or the cost has no gradient with respect to the actions.
        RuntimeError: called under ``torch.inference_mode``.
    """
    start, best = begin(mean, std, bounds, proposals)
    draw = noise_source(start.mean, generator, beta=config.noise_beta, spread=config.noise_spread)
    noise = draw(config.num_restarts)  # (N, H, A)
    noise[0] = 0.0
    candidates = candidates_around(start, start.mean, start.std, noise, start.proposals)
    return finish(cost_fn, start, descend(cost_fn, start, best, candidates, config))


def descend(cost_fn: CostFn, start: Start, best: Best, candidates: Tensor, config: GradientConfig) -> Found:
    """Run projected Adam on candidates ``(B, N, H, A)``; read only the descent's fields of ``config``."""
    first, second = torch.zeros_like(candidates), torch.zeros_like(candidates)  # Adam's moments
    history = []
    for iteration in range(config.num_iters):
        cost, slope = cost_and_gradient(cost_fn, candidates)
        best = best.update(candidates, cost)
        history.append(best.cost)
        is_sound = (torch.isfinite(cost) & torch.isfinite(slope).all(dim=-1).all(dim=-1))[..., None, None]
        slope = clip_norm(torch.where(is_sound, slope, 0.0), config.max_grad_norm)
        first = torch.where(is_sound, config.beta1 * first + (1 - config.beta1) * slope, 0.0)
        square = slope.square()
        if start.bounds.max_norm is not None:
            square = square.mean(dim=-1, keepdim=True).expand_as(square)
        second = torch.where(is_sound, config.beta2 * second + (1 - config.beta2) * square, 0.0)
        mean_slope = first / (1 - config.beta1 ** (iteration + 1))
        mean_square = second / (1 - config.beta2 ** (iteration + 1))
        stepped = candidates - config.rate(iteration) * mean_slope / (mean_square.sqrt() + EPSILON)
        candidates = start.bounds.project(torch.where(is_sound, stepped, best.actions[:, None]))
    best = best.update(candidates, evaluate(cost_fn, candidates))
    history = [*history[1:], best.cost]  # row i: after step i
    return Found(best, candidates, candidates.mean(dim=1), candidates.std(dim=1, correction=0), history)


def cost_and_gradient(cost_fn: CostFn, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cost ``(B, N)`` of candidates ``(B, N, H, A)`` and its gradient in them."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("gradient planning must be called outside torch.inference_mode, got a call in it")
    with torch.enable_grad():
        leaf = candidates.detach().requires_grad_()
        cost = evaluate(cost_fn, leaf)
        slope = torch.autograd.grad(cost.sum(), leaf, allow_unused=True)[0] if cost.requires_grad else None
    if slope is None:
        raise ValueError("cost_fn must be differentiable in the actions, got a cost without a gradient")
    return cost.detach(), slope


def clip_norm(slope: Tensor, max_norm: float | None) -> Tensor:
    """Scale gradients ``(B, N, H, A)`` down to ``max_norm``, each candidate's by itself."""
    if max_norm is None:
        return slope
    norm = torch.linalg.vector_norm(slope, dim=(-2, -1), keepdim=True)
    return slope * (max_norm / norm).clamp_max(1.0)  # norm 0 divides to inf, clamped to 1
