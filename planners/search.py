"""Steps that the planners share: checked evaluation, the best plan so far, elites, and refitting a Gaussian.

A cost that is not finite counts as ``inf`` from :func:`evaluate` on: it is never the best, never an elite,
and has weight zero. Nothing here branches on the value of a tensor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.checks import require, require_finite, require_shape
from planners.plan import CostFn, Plan


@dataclass(frozen=True, eq=False)
class Start:
    """Where a search begins: checked inputs, all on one device and in one dtype."""

    mean: Tensor  # (B, H, A) inside the bounds
    std: Tensor  # (B, H, A)
    bounds: ActionBounds
    proposals: Tensor  # (B, P, H, A) inside the bounds, P may be 0


@dataclass(frozen=True, eq=False)
class Best:
    """The best plan seen so far of each problem."""

    actions: Tensor  # (B, H, A)
    cost: Tensor  # (B,) inf until a candidate has a finite cost

    def update(self, actions: Tensor, cost: Tensor) -> "Best":
        """Return the better of this and the candidates ``(B, N, H, A)`` with their costs ``(B, N)``."""
        least, index = cost.min(dim=1)  # (B,)
        is_better = least < self.cost
        candidate = take(actions, index[:, None])[:, 0]
        return Best(
            torch.where(is_better[:, None, None], candidate, self.actions),
            torch.where(is_better, least, self.cost),
        )


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search ended."""

    best: Best
    elites: Tensor  # (B, E, H, A) of the last iteration, best first
    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)
    history: list[Tensor]  # num_iters of (B,), least cost so far


def begin(mean: Tensor, std: Tensor, bounds: ActionBounds, proposals: Tensor | None) -> tuple[Start, Best]:
    """Check a planner's inputs; return them projected onto the bounds, and a best plan that anything beats.

    Raises:
        ValueError: a shape does not fit, a number is not finite, or ``std`` is negative.
    """
    if mean.ndim == 3:
        require(mean.shape[1] >= 1, "horizon", ">= 1", mean.shape[1])
    require_shape("mean", mean, ("B", "H", bounds.action_dim))
    require(mean.is_floating_point(), "mean", "of a floating dtype", mean.dtype)
    require_shape("std", std, tuple(mean.shape))
    require_finite("mean", mean)
    require_finite("std", std)
    require(bool((std >= 0).all()), "std", ">= 0", float(std.min()))
    if proposals is None:
        proposals = mean.new_empty(mean.shape[0], 0, *mean.shape[1:])
    else:
        require_shape("proposals", proposals, (mean.shape[0], "P", *mean.shape[1:]))
        require_finite("proposals", proposals)
    bounds = bounds.to(mean.device, mean.dtype)
    start = Start(bounds.project(mean), std.to(mean), bounds, bounds.project(proposals.to(mean)))
    return start, Best(start.mean, torch.full_like(mean[:, 0, 0], torch.inf))


def candidates_around(start: Start, mean: Tensor, std: Tensor, noise: Tensor, extra: Tensor) -> Tensor:
    """Return ``mean + std * noise`` projected onto the bounds, and ``extra`` behind it.

    Args:
        start: holds the bounds.
        mean: ``(B, H, A)``.
        std: ``(B, H, A)``.
        noise: ``(N, H, A)``.
        extra: ``(B, P, H, A)`` inside the bounds.

    Returns:
        ``(B, N + P, H, A)``.
    """
    sampled = start.bounds.project(mean[:, None] + std[:, None] * noise)
    return torch.cat((sampled, extra), dim=1) if extra.shape[1] else sampled


def evaluate(cost_fn: CostFn, actions: Tensor) -> Tensor:
    """Score candidates ``(B, N, H, A)``; return ``(B, N)`` with ``inf`` wherever the cost is not finite.

    Raises:
        ValueError: ``cost_fn`` returns another shape than ``(B, N)``.
    """
    cost = cost_fn(actions)
    got = tuple(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
    require(got == tuple(actions.shape[:2]), "cost_fn's result", f"of shape {tuple(actions.shape[:2])}", got)
    cost = cost.to(actions.dtype)
    return torch.where(torch.isfinite(cost), cost, torch.inf)


def take(actions: Tensor, index: Tensor) -> Tensor:
    """Pick candidates ``(B, E)`` out of ``(B, N, H, A)``; return ``(B, E, H, A)``."""
    problem = torch.arange(actions.shape[0], device=actions.device)
    return actions[problem[:, None], index]


def select_elites(actions: Tensor, cost: Tensor, num_elites: int) -> tuple[Tensor, Tensor]:
    """Return the cheapest candidates, best first: ``(B, E, H, A)`` and their costs ``(B, E)``."""
    elite_cost, index = cost.topk(num_elites, dim=1, largest=False)
    return take(actions, index), elite_cost


def refit(
    mean: Tensor, std: Tensor, actions: Tensor, weights: Tensor, *, momentum: float, min_std: float
) -> tuple[Tensor, Tensor]:
    """Fit a diagonal Gaussian to weighted candidates and mix it with the one before.

    Args:
        mean: ``(B, H, A)`` before.
        std: ``(B, H, A)`` before.
        actions: ``(B, N, H, A)``.
        weights: ``(B, N)``, not negative; a problem whose weights are all zero keeps its mean and std.
        momentum: share of the Gaussian before, in [0, 1).
        min_std: floor of the fitted std [action units].
    """
    total = weights.sum(dim=1, keepdim=True)  # (B, 1)
    share = weights / total.clamp_min(torch.finfo(weights.dtype).tiny)
    fitted_mean = torch.einsum("bn,bnha->bha", share, actions)
    variance = torch.einsum("bn,bnha->bha", share, (actions - fitted_mean[:, None]).square())
    fitted_std = variance.sqrt().clamp_min(min_std)
    has_weight = total[:, :, None] > 0  # (B, 1, 1)
    return (
        torch.where(has_weight, torch.lerp(fitted_mean, mean, momentum), mean),
        torch.where(has_weight, torch.lerp(fitted_std, std, momentum), std),
    )


def finish(cost_fn: CostFn, start: Start, found: Found, *, return_mean: bool = False) -> Plan:
    """Return the best plan seen, or the final mean, which is evaluated once and passed over if not finite."""
    actions, cost = found.best.actions, found.best.cost
    if return_mean:
        mean = start.bounds.project(found.mean)
        mean_cost = evaluate(cost_fn, mean[:, None])[:, 0]
        is_finite = torch.isfinite(mean_cost)
        actions = torch.where(is_finite[:, None, None], mean, actions)
        cost = torch.where(is_finite, mean_cost, cost)
    return Plan(actions, cost, found.mean, found.std, torch.stack(found.history))
