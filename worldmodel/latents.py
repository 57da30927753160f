"""The latent variable of the predictor, and what it may tell: ``z ~ q(z | s, a, s')`` against a fixed prior.

A latent variable stands for what ``s'`` holds beyond ``s`` and ``a``; its information must be paid for, or the predictor
would copy the future through it (LeCun 2022, section 4.4). Here the regulariser is the divergence from a standard
normal prior, as in an RSSM (Hafner et al. 2019, arXiv 1811.04551, eq. 3); the prior's mean and scale are absorbed by the
predictor that reads the latent. At planning time the latent is 0, the prior's mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.encoders import mlp

LOG_STD_RANGE = (-5.0, 2.0)  # of the posterior


class GaussianLatent(nn.Module):
    """A diagonal Gaussian posterior over the latent variable.

    Args:
        embedding_dim: flat width ``D``.
        action_dim: ``A``.
        latent_dim: ``Z``.
        hidden_dim: width of the posterior's hidden layer.
    """

    def __init__(
        self, embedding_dim: int, action_dim: int, latent_dim: int, *, hidden_dim: int = 128
    ) -> None:
        super().__init__()
        self.posterior = mlp([2 * embedding_dim + action_dim, hidden_dim, 2 * latent_dim])

    def infer(
        self, embedding: Tensor, action: Tensor, following: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw ``z (B, Z)`` from ``q(z | s, a, s')`` and return it with the divergence from the prior ``(B,)`` [nats].

        Args:
            embedding: ``(B, D)`` before the step, flat.
            action: ``(B, A)``, scaled.
            following: ``(B, D)`` encoding of the frame after the step, flat.
            noise: ``(B, Z)`` standard normal numbers that the draw is made of.
        """
        mean, log_std = self.posterior(torch.cat([embedding, action, following], dim=-1)).chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        divergence = (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(dim=-1) / 2
        return mean + log_std.exp() * noise, divergence
