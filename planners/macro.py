"""Macro-actions: plan over knots, each held for several env steps."""

from torch import Tensor

from planners.checks import require, require_count
from planners.plan import CostFn


def repeat_actions(knots: Tensor, repeat: int) -> Tensor:
    """Hold each knot of ``(..., K, A)`` for ``repeat`` steps: ``(..., K * repeat, A)``."""
    require_count("repeat", repeat)
    return knots if repeat == 1 else knots.repeat_interleave(repeat, dim=-2)


def average_actions(actions: Tensor, repeat: int) -> Tensor:
    """Return the knots ``(..., H / repeat, A)`` nearest to actions ``(..., H, A)``: the mean of each block.

    It undoes :func:`repeat_actions`. Bounds are convex, so knots of allowed actions are allowed.
    """
    require_count("repeat", repeat)
    require(actions.shape[-2] % repeat == 0, "repeat", f"a divisor of {actions.shape[-2]} steps", repeat)
    return actions if repeat == 1 else actions.unflatten(-2, (-1, repeat)).mean(dim=-2)


def with_action_repeat(cost_fn: CostFn, repeat: int) -> CostFn:
    """Return a cost function of knots ``(B, N, K, A)`` from one of actions ``(B, N, K * repeat, A)``."""
    require_count("repeat", repeat)
    return cost_fn if repeat == 1 else lambda knots: cost_fn(repeat_actions(knots, repeat))
