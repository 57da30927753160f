"""What planners take and return."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

CostFn = Callable[[Tensor], Tensor]
"""Scores candidate plans: actions ``(B, N, H, A)`` to cost ``(B, N)``, lower is better."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Action sequences found for ``B`` problems, with what the search ended on.

    ``cost`` is the cost of ``actions``; it is ``inf`` where every candidate of a problem had a cost that was
    not finite, and ``actions`` is then the mean that the search began with, projected onto the bounds.
    """

    actions: Tensor  # (B, H, A) the plan, inside the bounds
    cost: Tensor  # (B,) what cost_fn says of it
    mean: Tensor  # (B, H, A) mean of the final candidates' distribution
    std: Tensor  # (B, H, A) its standard deviation [action units]
    history: Tensor  # (num_iters, B) least cost seen up to and including each iteration


Planner = Callable[..., Plan]
"""Finds plans: ``(cost_fn, mean, std, bounds, *, proposals=None, generator=None)`` to :class:`Plan`."""
