"""Statistics of evaluations."""

from __future__ import annotations

import math

WILSON_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a success rate (Wilson 1927).

    Raises:
        ValueError: ``trials`` is not positive, or ``successes`` is not in ``[0, trials]``.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, trials] with trials >= 1, got {successes} of {trials}")
    rate, z2 = successes / trials, WILSON_Z**2
    center = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = WILSON_Z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, center - half), min(1.0, center + half)
