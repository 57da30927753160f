"""Factors of variation: per-world overrides, checked against a ``gymnasium.spaces.Dict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.suggestions import did_you_mean

Variation: TypeAlias = Mapping[str, Any]


def resolve_variation(
    space: spaces.Dict, variation: Variation | None, num_envs: int, device: torch.device
) -> dict[str, Tensor]:
    """Check ``variation`` and broadcast each of its values to one per world.

    Args:
        space: The factors; each is a ``Box`` or a ``Discrete``.
        variation: Factor name -> one value for all worlds, or an array with a leading axis B.
        num_envs: B.
        device: Where the result lives.

    Returns:
        Name -> ``(B, *factor shape)`` tensor in the factor's dtype, for the given names only.

    Raises:
        ValueError: A name is unknown, a shape does not fit or a value lies outside its space.
    """
    resolved = {}
    for name, value in (variation or {}).items():
        if name not in space.spaces:
            raise ValueError(f"a variation must name a known factor, got {name!r}{did_you_mean(name, space)}")
        resolved[name] = torch.as_tensor(_broadcast(name, space[name], value, num_envs), device=device)
    return resolved


def _broadcast(name: str, factor: spaces.Space[Any], value: object, num_envs: int) -> np.ndarray:
    raw = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    shape = factor.shape or ()
    if raw.shape not in (shape, (num_envs, *shape)):
        raise ValueError(
            f"variation {name!r} must have shape {shape} or {(num_envs, *shape)}, got {raw.shape}"
        )
    if isinstance(factor, spaces.Discrete):
        low, high = int(factor.start), int(factor.start + factor.n - 1)
        whole = bool(np.all(raw == np.round(raw)))
    else:
        assert isinstance(factor, spaces.Box)
        low, high = factor.low.min(), factor.high.max()
        if np.issubdtype(factor.dtype, np.integer):
            whole = bool(np.all(raw == np.round(raw)))
        else:  # bounds such as 0.6 are in single precision, too
            with np.errstate(over="ignore"):
                whole, raw = True, raw.astype(factor.dtype)
    if not (whole and np.all((raw >= low) & (raw <= high))):
        kind = "whole numbers " if np.issubdtype(factor.dtype, np.integer) else ""
        raise ValueError(f"variation {name!r} must be {kind}in [{low!s}, {high!s}], got {value}")
    return np.broadcast_to(raw, (num_envs, *shape)).astype(factor.dtype)
