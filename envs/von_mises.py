"""Von Mises angles from uniforms, through a tabulated inverse distribution function.

``torch.distributions.VonMises`` takes no generator, and rejection sampling needs an unknown number of draws.
The table turns one uniform into one angle, from a generator or from a hash alike.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_GRID = 2**16  # cells on which the density is integrated
_KNOTS = 2**12  # cells of the inverse; the angle is linear in between


@lru_cache(maxsize=32)
def _quantiles(kappa: float) -> Tensor:
    """Return float32 ``(_KNOTS + 1,)`` angles in [-pi, pi] at equally spaced probabilities."""
    angle = torch.linspace(-math.pi, math.pi, _GRID + 1, dtype=torch.float64)
    density = torch.exp(kappa * (angle.cos() - 1.0))
    mass = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, angle)])
    mass = mass / mass[-1]
    wanted = torch.linspace(0.0, 1.0, _KNOTS + 1, dtype=torch.float64)
    upper = torch.searchsorted(mass, wanted).clamp(1, _GRID)
    span = mass[upper] - mass[upper - 1]
    share = (wanted - mass[upper - 1]) / torch.where(span > 0, span, 1.0)
    return (angle[upper - 1] + share * (angle[upper] - angle[upper - 1])).to(torch.float32)


def von_mises_from_uniform(uniform: Tensor, kappa: float) -> Tensor:
    """Map uniforms in [0, 1), any shape, to angles [rad] with mean 0 and concentration ``kappa >= 0``.

    Raises:
        ValueError: ``kappa`` is negative or not finite.
    """
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa must be finite and at least 0, got {kappa}")
    table = _quantiles(float(kappa)).to(uniform.device)
    scaled = uniform * _KNOTS
    lower = scaled.long().clamp_max(_KNOTS - 1)
    return torch.lerp(table[lower], table[lower + 1], scaled - lower)


def sample_von_mises(shape: tuple[int, ...], kappa: float, generator: torch.Generator) -> Tensor:
    """Draw angles [rad] of ``shape`` on the generator's device."""
    return von_mises_from_uniform(torch.rand(shape, generator=generator, device=generator.device), kappa)
