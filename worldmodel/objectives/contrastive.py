"""Contrastive terms: a prediction must be nearer to its target than to targets, or than predictions, that do not belong.

Both terms turn distances into energies and hand them to a loss of :mod:`worldmodel.objectives.energy`.

* InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4; SimCLR: Chen et al. 2020, arXiv 2002.05709, eq. 1) and its
  decoupled form DCL (Yeh et al. 2021, arXiv 2110.06848, eq. 6). Which negatives it gets decides what it learns: *across*
  trajectories, whatever tells trajectories apart, a fixed background first; *within* a trajectory, what changes in time
  and can be predicted.
* Action contrast: from the same frame, the rollout under the actions that were taken must end nearer to what came than
  rollouts under other actions. Only what the actions control tells them apart.

Negatives come from the other windows of a batch. Two windows of one trajectory may meet in a batch; where there are few
trajectories, as in a small held-out set, that puts a floor under the value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.jepa import require_known
from worldmodel.objectives import energy
from worldmodel.objectives.energy import ENERGY_LOSSES
from worldmodel.objectives.outputs import JEPAOutputs, Term, TermSizes, matched_targets

METRICS = ("l2", "cosine")
NEGATIVES = ("across", "within", "both")


def pairwise_energies(queries: Tensor, keys: Tensor, metric: str) -> Tensor:
    """Energies of all pairs: ``(..., M, D)`` and ``(..., N, D)`` to ``(..., M, N)``.

    ``l2`` is ``|q - k|^2 / D``, ``cosine`` is ``1 - cos(q, k)``.
    """
    if metric == "cosine":
        return 1 - F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT
    squares = queries.square().sum(dim=-1)[..., :, None] + keys.square().sum(dim=-1)[..., None, :]
    return (squares - 2 * queries @ keys.mT).clamp(min=0) / queries.shape[-1]


def energies(queries: Tensor, keys: Tensor, metric: str) -> Tensor:
    """Energies of matched pairs: ``(..., D)`` twice, broadcasting, to ``(...)``."""
    if metric == "cosine":
        return 1 - F.cosine_similarity(queries, keys, dim=-1)
    return (queries - keys).square().mean(dim=-1)


def without_diagonal(matrix: Tensor) -> Tensor:
    """Drop the matched pairs of ``(..., M, M)``, leaving ``(..., M, M - 1)``."""
    size = matrix.shape[-1]
    shorter = matrix.flatten(-2)[..., :-1].unflatten(-1, (size - 1, size + 1))[..., 1:]
    return shorter.flatten(-2).unflatten(-1, (size, size - 1))


class InfoNCE(Term):
    """``F(p, s) / tau + log sum_y exp(-F(p, y) / tau)`` over the target itself and the negatives.

    Args:
        sizes: of the model.
        metric: ``l2``, ``F = |p - s|^2 / D``, or ``cosine``, ``F = 1 - cos(p, s)``.
        negatives: targets of the same time step ``across`` trajectories, of the other time steps ``within`` the
            trajectory, or ``both``.
        temperature: ``tau``.
        decoupled: leave the positive out of the sum (DCL).
    """

    def __init__(
        self,
        sizes: TermSizes,
        *,
        metric: str = "cosine",
        negatives: str = "across",
        temperature: float = 0.1,
        decoupled: bool = False,
    ) -> None:
        super().__init__(sizes)
        require_known("metric", metric, METRICS)
        require_known("negatives", negatives, NEGATIVES)
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.metric, self.negatives = metric, negatives
        self.temperature, self.decoupled = temperature, decoupled

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean over batch, starts and steps."""
        p = outputs.predictions.flatten(3)  # (B, S, H, D)
        s = outputs.targets.flatten(2)  # (B, T, D)
        if self.negatives != "within" and len(s) < 2:
            raise ValueError("negatives across trajectories must have a batch of at least 2 windows, got 1")
        starts, horizon = p.shape[1:3]
        positive, others = [], []
        for i in range(starts):
            future = s[:, i + 1 : i + 1 + horizon]
            pairs = []
            if self.negatives != "within":
                across = pairwise_energies(p[:, i].transpose(0, 1), future.transpose(0, 1), self.metric)
                pairs.append(without_diagonal(across).transpose(0, 1))  # (B, H, B - 1)
            if self.negatives != "across":
                within = pairwise_energies(p[:, i], s, self.metric)  # (B, H, T)
                pairs.append(_without_own_step(within, first=i + 1))  # (B, H, T - 1)
            positive.append(energies(p[:, i], future, self.metric))
            others.append(torch.cat(pairs, dim=-1))
        loss = energy.decoupled if self.decoupled else energy.nll
        beta = 1 / self.temperature
        return beta * loss(torch.stack(positive, dim=1), torch.stack(others, dim=1), beta).mean()


def _without_own_step(within: Tensor, first: int) -> Tensor:
    """Drop from ``(B, H, T)`` the entry of frame ``first + k`` in row ``k``, leaving ``(B, H, T - 1)``."""
    horizon, frames = within.shape[1:]
    keep = torch.ones(horizon, frames, dtype=torch.bool, device=within.device)
    rows = torch.arange(horizon, device=within.device)
    keep[rows, first + rows] = False
    return within.masked_select(keep).view(len(within), horizon, frames - 1)


class ActionContrast(Term):
    """``L(F(p, s), F(p', s))`` where ``p'`` are rollouts from the same frame under the actions of other windows.

    Args:
        sizes: of the model.
        metric: ``l2`` or ``cosine``, as in :class:`InfoNCE`.
        num_shuffled: other action sequences per window, all different windows of the batch.
        temperature: divides the energies.
        loss: a name of :data:`worldmodel.objectives.energy.ENERGY_LOSSES`.
    """

    def __init__(
        self,
        sizes: TermSizes,
        *,
        metric: str = "l2",
        num_shuffled: int = 8,
        temperature: float = 0.5,
        loss: str = "nll",
    ) -> None:
        super().__init__(sizes)
        require_known("metric", metric, METRICS)
        require_known("loss", loss, ENERGY_LOSSES)
        if num_shuffled < 1 or not temperature > 0:
            raise ValueError(
                f"num_shuffled must be >= 1 and temperature > 0, got {num_shuffled} and {temperature}"
            )
        self.metric, self.temperature, self.loss = metric, temperature, loss
        self.num_shuffled = num_shuffled

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean over batch, starts and steps."""
        assert outputs.shuffled is not None
        targets = matched_targets(outputs).flatten(3)  # (B, S, H, D)
        shuffled = outputs.shuffled[:, :, : self.num_shuffled].flatten(4)  # (B, S, N, H, D)
        positive = energies(outputs.predictions.flatten(3), targets, self.metric)  # (B, S, H)
        negatives = energies(shuffled, targets[:, :, None], self.metric).movedim(2, -1)  # (B, S, H, N)
        function = ENERGY_LOSSES[self.loss].function
        return function(positive / self.temperature, negatives / self.temperature).mean()
