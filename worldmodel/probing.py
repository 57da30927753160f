"""Linear probes: what can be read off an embedding by one affine map, fitted in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearProbe:
    """An affine map from embeddings to a target.

    Attributes:
        weight: ``(D, K)``.
        bias: ``(K,)``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Decode flat embeddings ``(..., D)`` to ``(..., K)``."""
        return embeddings @ self.weight + self.bias


def fit_linear_probe(embeddings: Tensor, targets: Tensor, ridge: float = 1e-4) -> LinearProbe:
    """Fit ``targets (M, K)`` on flat ``embeddings (M, D)`` by ridge regression in double precision.

    Args:
        embeddings: the inputs.
        targets: the quantities to decode.
        ridge: penalty on the weights of standardised features, relative to the number of rows.
    """
    x, y = embeddings.double(), targets.double()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp(min=1e-8)
    z = (x - mean) / std
    y_mean = y.mean(dim=0)
    gram = z.T @ z + ridge * len(z) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    weight = torch.linalg.solve(gram, z.T @ (y - y_mean)) / std[:, None]
    return LinearProbe(weight.float(), (y_mean - mean @ weight).float())


def distance_rmse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Root mean squared Euclidean error over all but the time axis: ``(M, T, K)`` twice to ``(T,)``."""
    return (predictions - targets).square().sum(dim=-1).mean(dim=0).sqrt()
