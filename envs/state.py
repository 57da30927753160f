"""The state of a batch of worlds: a plain dict of tensors whose first axis is the world B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

State: TypeAlias = dict[str, Tensor]


def num_worlds(state: Mapping[str, Tensor]) -> int:
    """Return B, the number of worlds in ``state``."""
    return next(iter(state.values())).shape[0]


def index_state(state: Mapping[str, Tensor], idx: Tensor | slice) -> State:
    """Select worlds: ``idx`` is a slice, an integer tensor ``(M,)`` or a bool mask ``(B,)``."""
    return {key: value[idx] for key, value in state.items()}


def repeat_state(state: Mapping[str, Tensor], num: int) -> State:
    """Repeat every world ``num`` times in a row: ``(B, ...) -> (B * num, ...)``."""
    return {key: value.repeat_interleave(num, dim=0) for key, value in state.items()}


def where_state(mask: Tensor, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> State:
    """Take worlds from ``a`` where ``mask (B,)`` is true and from ``b`` elsewhere."""
    return {
        key: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value, b[key]) for key, value in a.items()
    }


def concat_states(states: list[State]) -> State:
    """Concatenate batches of worlds that have the same keys along the world axis."""
    return {key: torch.cat([state[key] for state in states]) for key in states[0]}
