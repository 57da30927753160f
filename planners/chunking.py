"""Evaluate candidates in slices that fit a CPU's cache."""

import torch
from torch import Tensor

from planners.checks import require_count
from planners.plan import CostFn


def chunk_candidates(cost_fn: CostFn, max_rows: int) -> CostFn:
    """Return a cost function that evaluates ``cost_fn`` over slices of the candidates.

    A slice holds at most ``max_rows // B`` candidates per problem (at least one), so that the model sees at
    most ``max_rows`` rows at a time. The costs are those of one call, since candidates do not see each other.

    Raises:
        ValueError: ``max_rows`` is below 1.
    """
    require_count("max_rows", max_rows)

    def chunked(actions: Tensor) -> Tensor:
        size = max(1, max_rows // actions.shape[0])
        if size >= actions.shape[1]:
            return cost_fn(actions)
        return torch.cat([cost_fn(part) for part in actions.split(size, dim=1)], dim=1)

    return chunked
