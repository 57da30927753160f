"""Splits of episodes that neither order nor growth of a store can change."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np


def split_groups(
    groups: np.ndarray, fractions: float | Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Assign every group to a split by the hash of its value, so that no group straddles a split.

    The hash is a uniform number in [0, 1) that is compared with the cumulative fractions: sizes are as asked
    only on average, but a group keeps its split whatever else the store holds. The exception are stores so
    small that a split would stay empty: it takes the group whose number lies nearest to its interval.

    Args:
        groups: ``(E, ...)`` one value per episode; equal values belong together.
        fractions: share of "train" (the rest is "val"), or name -> share > 0, adding up to 1.
        seed: another seed is another split.

    Returns:
        name -> mask ``(E,)``; each episode is in exactly one.

    Raises:
        ValueError: shares outside (0, 1], not adding up to 1, or more splits than groups.
    """
    shares = (
        {"train": fractions, "val": 1 - fractions} if isinstance(fractions, int | float) else dict(fractions)
    )
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"fractions must be positive and add up to 1, got {shares}")
    values, group_of = np.unique(groups.reshape(len(groups), -1), axis=0, return_inverse=True)
    if len(values) < len(shares):
        raise ValueError(
            f"a split must find a group for each of {', '.join(shares)}, got {len(values)} groups"
        )
    draw = np.array([_uniform(value, seed) for value in values])
    edges = np.cumsum([0.0, *shares.values()])
    assigned = np.clip(np.searchsorted(edges[1:], draw, side="right"), 0, len(shares) - 1)
    for part in range(len(shares)):
        if part in assigned:
            continue
        spare = np.bincount(assigned, minlength=len(shares))[assigned] > 1
        distance = np.maximum(edges[part] - draw, draw - edges[part + 1])
        assigned[np.argmin(np.where(spare, distance, np.inf))] = part
    return {name: assigned[group_of.reshape(-1)] == part for part, name in enumerate(shares)}


def _uniform(value: np.ndarray, seed: int) -> float:
    """Map a value and a seed to a number in [0, 1), the same on every machine."""
    text = f"{seed}:{value.tolist()}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") / 2**64
