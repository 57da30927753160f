"""Contrastive losses on the energies of compatible and incompatible pairs.

An energy-based model gives a compatible pair ``(x, y)`` the energy ``F+`` and incompatible pairs ``(x, y')`` the energies
``F-``; learning pushes the first down and the others up (LeCun et al. 2006, "A tutorial on energy-based learning",
table 1; the lectures show the same table). What tells good losses from bad ones is the margin: a loss has a margin
``m > 0`` if it is smallest somewhere in ``F+ + m < F-``, so that minimising it puts a gap between the two. The *energy*
and the *perceptron* loss have none and may collapse to a flat energy; *LVQ2* has none either.

Every loss maps ``positive (...)`` and ``negatives (..., N)`` to ``(...)``. Losses of the *most offending* answer look at
the smallest ``F-`` only; NLL and MEE look at all of them. With ``F = |p - s|^2`` and ``beta = 1 / temperature``,
``beta * nll`` is InfoNCE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EnergyLossFn = Callable[[Tensor, Tensor], Tensor]  # F+ (...), F- (..., N) -> (...)


def energy(positive: Tensor, negatives: Tensor) -> Tensor:  # noqa: ARG001  # it does not push anything up
    """``F+``: no margin; a constant energy minimises it."""
    return positive


def perceptron(positive: Tensor, negatives: Tensor) -> Tensor:
    """``F+ - min(F+, min F-)``: zero as soon as the compatible answer is the lowest; margin 0."""
    return positive - torch.minimum(positive, negatives.amin(dim=-1))


def hinge(positive: Tensor, negatives: Tensor, margin: float = 1.0) -> Tensor:
    """``max(0, m + F+ - min F-)``."""
    return torch.relu(margin + positive - negatives.amin(dim=-1))


def log(positive: Tensor, negatives: Tensor) -> Tensor:
    """``log(1 + exp(F+ - min F-))``: a soft hinge, any margin."""
    return torch.nn.functional.softplus(positive - negatives.amin(dim=-1))


def lvq2(positive: Tensor, negatives: Tensor, ceiling: float = 1.0) -> Tensor:
    """``min(M, max(0, F+ - min F-))``: a perceptron that gives up on outliers; margin 0."""
    return torch.relu(positive - negatives.amin(dim=-1)).clamp(max=ceiling)


def mce(positive: Tensor, negatives: Tensor) -> Tensor:
    """``1 / (1 + exp(-(F+ - min F-)))``: minimum classification error, a smooth count of mistakes."""
    return torch.sigmoid(positive - negatives.amin(dim=-1))


def square_square(positive: Tensor, negatives: Tensor, margin: float = 1.0) -> Tensor:
    """``F+^2 + max(0, m - min F-)^2``; energies are non-negative."""
    return positive.square() + torch.relu(margin - negatives.amin(dim=-1)).square()


def square_exp(positive: Tensor, negatives: Tensor, beta: float = 1.0) -> Tensor:
    """``F+^2 + beta exp(-min F-)``; energies are non-negative."""
    return positive.square() + beta * torch.exp(-negatives.amin(dim=-1))


def nll(positive: Tensor, negatives: Tensor, beta: float = 1.0) -> Tensor:
    """``F+ + 1/beta log sum_y exp(-beta F(y))`` over all answers: negative log-likelihood, or MMI."""
    every = torch.cat([positive[..., None], negatives], dim=-1)
    return positive + torch.logsumexp(-beta * every, dim=-1) / beta


def mee(positive: Tensor, negatives: Tensor, beta: float = 1.0) -> Tensor:
    """``1 - exp(-beta F+) / sum_y exp(-beta F(y))``: minimum empirical error, one minus the probability of the answer."""
    every = torch.cat([positive[..., None], negatives], dim=-1)
    return 1 - torch.softmax(-beta * every, dim=-1)[..., 0]


def decoupled(positive: Tensor, negatives: Tensor, beta: float = 1.0) -> Tensor:
    """``F+ + 1/beta log sum exp(-beta F-)`` over the negatives only: DCL (Yeh et al. 2021, arXiv 2110.06848)."""
    return positive + torch.logsumexp(-beta * negatives, dim=-1) / beta


@dataclass(frozen=True)
class EnergyLoss:
    """A loss of the table.

    Attributes:
        function: ``F+ (...)``, ``F- (..., N)`` -> ``(...)``.
        has_margin: whether its minimum keeps incompatible answers above the compatible one by a positive margin.
    """

    function: EnergyLossFn
    has_margin: bool


ENERGY_LOSSES: dict[str, EnergyLoss] = {
    "energy": EnergyLoss(energy, has_margin=False),
    "perceptron": EnergyLoss(perceptron, has_margin=False),
    "hinge": EnergyLoss(hinge, has_margin=True),
    "log": EnergyLoss(log, has_margin=True),
    "lvq2": EnergyLoss(lvq2, has_margin=False),
    "mce": EnergyLoss(mce, has_margin=True),
    "square_square": EnergyLoss(square_square, has_margin=True),
    "square_exp": EnergyLoss(square_exp, has_margin=True),
    "nll": EnergyLoss(nll, has_margin=True),
    "mee": EnergyLoss(mee, has_margin=True),
    "decoupled": EnergyLoss(decoupled, has_margin=True),
}
