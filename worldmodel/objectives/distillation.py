"""Non-contrastive terms between predictions and targets: Barlow Twins, BYOL and SimSiam, SwAV.

* Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230, eq. 1-2): the cross-correlation of the branches is the identity;
* cosine prediction: the loss of BYOL (Grill et al. 2020, arXiv 2006.07733, eq. 2) with ``model.target = "ema"`` and of
  SimSiam (Chen & He 2021, arXiv 2011.10566, eq. 1) with ``model.target = "stop_gradient"``; here the action-conditioned
  predictor is the asymmetry that their predictor heads are;
* SwAV (Caron et al. 2020, arXiv 2006.09882, eq. 2-3): each branch predicts the other's assignment to prototypes, and
  Sinkhorn's algorithm keeps the assignments balanced.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.objectives.outputs import JEPAOutputs, Term, TermSizes, matched_targets


def matched_samples(outputs: JEPAOutputs) -> tuple[Tensor, Tensor]:
    """Return predictions and their targets as rows ``(M, D)``; the rows of a feature map are its positions."""
    is_map = outputs.embeddings.ndim > 3
    pairs = (outputs.predictions, matched_targets(outputs))
    p, s = (x.movedim(3, -1).flatten(0, -2) if is_map else x.flatten(0, 2) for x in pairs)
    return p, s


class BarlowTwins(Term):
    """``sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2``, ``C`` the correlation of prediction and target features.

    Args:
        sizes: of the model.
        redundancy: weight of the off-diagonal part (lambda).
    """

    def __init__(self, sizes: TermSizes, *, redundancy: float = 0.005) -> None:
        super().__init__(sizes)
        self.redundancy = redundancy

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the loss over all predictions of the batch."""
        p, s = ((x - x.mean(dim=0)) / (x.var(dim=0) + 1e-5).sqrt() for x in matched_samples(outputs))
        correlation = p.T @ s / (len(p) - 1)
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + self.redundancy * off_diagonal


class CosinePrediction(Term):
    """``mean 2 - 2 cos(p, target)``."""

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean over all predictions of the batch."""
        return (2 - 2 * F.cosine_similarity(*matched_samples(outputs), dim=-1)).mean()


class SwAV(Term):
    """``-(q_s . log softmax(C p / tau) + q_p . log softmax(C s / tau)) / 2``, ``q`` the Sinkhorn codes of each branch.

    Args:
        sizes: of the model.
        num_prototypes: rows of ``C``, unit vectors that are learned.
        temperature: ``tau``.
        epsilon: entropy of the codes; smaller is harder.
        num_iters: of Sinkhorn's algorithm.
    """

    def __init__(
        self,
        sizes: TermSizes,
        *,
        num_prototypes: int = 64,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        num_iters: int = 3,
    ) -> None:
        super().__init__(sizes)
        if num_prototypes < 2 or num_iters < 1 or not (temperature > 0 and epsilon > 0):
            raise ValueError(
                "SwAV must have num_prototypes >= 2, num_iters >= 1, temperature > 0 and epsilon > 0, "
                f"got {num_prototypes}, {num_iters}, {temperature} and {epsilon}"
            )
        self.prototypes = nn.Linear(sizes.embedding_shape[0], num_prototypes, bias=False)
        self.temperature, self.epsilon, self.num_iters = temperature, epsilon, num_iters

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the swapped cross-entropy over all predictions of the batch."""
        prototypes = F.normalize(self.prototypes.weight, dim=-1)
        p_scores, s_scores = (F.normalize(x, dim=-1) @ prototypes.T for x in matched_samples(outputs))
        return (self._swapped(p_scores, s_scores) + self._swapped(s_scores, p_scores)) / 2

    def _swapped(self, scores: Tensor, code_scores: Tensor) -> Tensor:
        codes = sinkhorn(code_scores.detach(), self.epsilon, self.num_iters)
        return -(codes * F.log_softmax(scores / self.temperature, dim=-1)).sum(dim=-1).mean()


def sinkhorn(scores: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """Soft assignments ``(M, K)`` of ``scores (M, K)`` with rows that sum to 1 and columns that sum to about ``M / K``.

    Cuturi 2013 (arXiv 1306.0895), in logarithms, so that no ``epsilon`` overflows.
    """
    log_codes = scores / epsilon
    for _ in range(num_iters):
        log_codes = log_codes - torch.logsumexp(log_codes, dim=0, keepdim=True)
        log_codes = log_codes - torch.logsumexp(log_codes, dim=1, keepdim=True)
    return log_codes.exp()
