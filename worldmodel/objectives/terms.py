"""Terms of the training objective: unweighted, named, functions of what a JEPA computed on a batch of windows.

Each term is a module called with :class:`~worldmodel.objectives.outputs.JEPAOutputs` and returns one scalar; the recipe
holds the weights. This file has the terms on predictions and on the statistics of embeddings:

* prediction: multi-step squared error between rollouts and targets;
* variance and covariance: VICReg (Bardes et al. 2022, arXiv 2105.04906, equations 1-4), over all frames of the batch;
* temporal similarity: PLDM (Sobal et al. 2025, arXiv 2502.14819, appendix);
* temporal std: hinge on the spread over time within a trajectory, which a constant background does not satisfy;
* SIGReg: LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544), Epps-Pulley statistics of random projections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.objectives.outputs import JEPAOutputs, Term, TermSizes, feature_samples, matched_targets


class Prediction(Term):
    """``mean |p_{i,k} - s_{i+k+1}|^2`` over batch, starts ``i``, rollout steps ``k`` and features.

    Args:
        sizes: of the model.
        stop_gradient: keep the targets out of the gradient of this term: predictions move to the embeddings, and of the
            embeddings only those that rollouts start from are moved by it.
    """

    def __init__(self, sizes: TermSizes, *, stop_gradient: bool = False) -> None:
        super().__init__(sizes)
        self.stop_gradient = stop_gradient

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean squared error."""
        targets = matched_targets(outputs)
        return (outputs.predictions - (targets.detach() if self.stop_gradient else targets)).square().mean()


class Variance(Term):
    """``mean_j relu(margin - sqrt(var_j + 1e-4))`` over all frames of the batch."""

    def __init__(self, sizes: TermSizes, *, margin: float = 1.0) -> None:
        super().__init__(sizes)
        self.margin = margin

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the hinge on the standard deviation of each feature."""
        var = feature_samples(outputs.embeddings).var(dim=0)
        return torch.relu(self.margin - (var + 1e-4).sqrt()).mean()


class Covariance(Term):
    """``sum_{i != j} C_ij^2 / (D (D - 1))``: the mean squared off-diagonal covariance."""

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean squared covariance between different features."""
        samples = feature_samples(outputs.embeddings)
        samples = samples - samples.mean(dim=0)
        num, dim = samples.shape
        covariance = samples.T @ samples / (num - 1)
        off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
        return off_diagonal / (dim * (dim - 1))


class TemporalSimilarity(Term):
    """``mean |s_{t+1} - s_t|^2``: neighbouring frames lie close."""

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean squared step of the embedding."""
        return (outputs.embeddings[:, 1:] - outputs.embeddings[:, :-1]).square().mean()


class TemporalStd(Term):
    """``mean relu(margin - sqrt(var_t + 1e-4))``: each feature varies in time within each trajectory."""

    def __init__(self, sizes: TermSizes, *, margin: float = 1.0) -> None:
        super().__init__(sizes)
        self.margin = margin

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the hinge on the standard deviation over time."""
        var = outputs.embeddings.var(dim=1)
        return torch.relu(self.margin - (var + 1e-4).sqrt()).mean()


class SIGReg(Term):
    """Sketched isotropic Gaussian regularisation.

    ``N * integral |ecf(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt`` of the projections on random unit directions, drawn
    afresh each step, by the trapezoid rule on ``[0, 3]`` doubled by symmetry; the mean over directions.

    Args:
        sizes: of the model.
        num_directions: random projections per step.
        num_points: nodes of the trapezoid rule.
        max_samples: samples entering the statistic, drawn afresh each step (it costs samples x directions).
    """

    def __init__(
        self,
        sizes: TermSizes,
        *,
        num_directions: int = 256,
        num_points: int = 17,
        max_samples: int = 1024,
    ) -> None:
        super().__init__(sizes)
        self.num_directions = num_directions
        self.num_points = num_points
        self.max_samples = max_samples

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean Epps-Pulley statistic."""
        samples = feature_samples(outputs.embeddings)
        generator = torch.Generator().manual_seed(outputs.seed)
        if len(samples) > self.max_samples:
            chosen = torch.randperm(len(samples), generator=generator)[: self.max_samples]
            samples = samples[chosen.to(samples.device)]
        samples = samples.float()
        directions = torch.randn(samples.shape[-1], self.num_directions, generator=generator)
        directions = (directions / directions.norm(dim=0)).to(samples.device)
        nodes = torch.linspace(0, 3, self.num_points, device=samples.device)
        return epps_pulley(samples @ directions, nodes).mean()


def epps_pulley(projections: Tensor, nodes: Tensor) -> Tensor:
    """Distance of each column of ``projections (N, M)`` from a standard normal, ``(M,)``.

    Args:
        projections: one-dimensional samples, a column per direction.
        nodes: ``(K,)`` non-negative integration nodes; the integrand is even, so the result is doubled.
    """
    angles = projections[..., None] * nodes  # (N, M, K)
    normal = torch.exp(-nodes.square() / 2)
    distance = (angles.cos().mean(dim=0) - normal).square() + angles.sin().mean(dim=0).square()
    return len(projections) * 2 * torch.trapezoid(distance * normal, nodes, dim=-1)
