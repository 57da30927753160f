"""Terms with a readout: what must be recoverable from the embeddings.

* inverse dynamics: the actions between two frames (PLDM, Sobal et al. 2025, arXiv 2502.14819; over several steps as in
  Lamb et al. 2022, arXiv 2207.08229);
* reconstruction: the pixels, from embeddings and predictions (the generative baseline of arXiv 2211.10831);
* latent KL: the information that the latent variable of a predictor takes from the frame it predicts
  (:mod:`worldmodel.latents`); with reconstruction it makes the RSSM-style baseline;
* supervised: a label that the data holds; the upper bound of every comparison, not a way to train a world model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldmodel.encoders import mlp
from worldmodel.latents import GaussianLatent
from worldmodel.objectives.outputs import JEPAOutputs, Term, TermSizes


class InverseDynamics(Term):
    """``mean |MLP(s_t, s_{t+n}) - (a_t, ..., a_{t+n-1})|^2``: the actions can be read off two embeddings.

    Args:
        sizes: of the model; embeddings are flattened.
        hidden_dims: widths of the MLP; empty for a linear readout.
        num_steps: ``n``, frames between the two embeddings.
    """

    def __init__(self, sizes: TermSizes, *, hidden_dims: Sequence[int] = (128,), num_steps: int = 1) -> None:
        super().__init__(sizes)
        if num_steps < 1:
            raise ValueError(f"num_steps of inverse dynamics must be >= 1, got {num_steps}")
        self.num_steps = num_steps
        self.layers = mlp([2 * math.prod(sizes.embedding_shape), *hidden_dims, num_steps * sizes.action_dim])

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean squared error of the (scaled) actions."""
        flat, gap = outputs.embeddings.flatten(2), self.num_steps
        if flat.shape[1] <= gap:
            raise ValueError(
                f"a window must have more than num_steps = {gap} frames for inverse dynamics, got {flat.shape[1]}"
            )
        pairs = torch.cat([flat[:, :-gap], flat[:, gap:]], dim=-1)
        actions = outputs.actions.unfold(1, gap, 1).movedim(-1, 2).flatten(2)  # (B, T - n, n A)
        return (self.layers(pairs) - actions).square().mean()


class PixelDecoder(nn.Module):
    """A linear layer to a quarter of the resolution, then two transposed convolutions.

    Args:
        embedding_dim: flat width ``D``.
        image_shape: ``(C, rows, cols)``.
        channels: widths before each transposed convolution.
    """

    def __init__(
        self, embedding_dim: int, image_shape: Sequence[int], channels: tuple[int, int] = (16, 8)
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.grid = (channels[0], *(math.ceil(side / 4) for side in image_shape[1:]))
        self.linear = nn.Linear(embedding_dim, math.prod(self.grid))
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((*channels, image_shape[0])):
            layers += [nn.ReLU(), nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode ``(..., D)`` to ``(..., C, rows, cols)``."""
        lead = embedding.shape[:-1]
        images = self.layers(self.linear(embedding).view(-1, *self.grid))
        rows, cols = self.image_shape[1:]
        return images[..., :rows, :cols].reshape(*lead, *self.image_shape)


class Reconstruction(Term):
    """``mean |Dec(s_t) - x_t|^2 + mean |Dec(p_t) - x_t|^2`` on normalised observations, one decoder for both.

    Args:
        sizes: of the model; with several observations the first image is decoded, or else the first array.
        hidden_dim: width of the decoder of an observation that is no image.
    """

    def __init__(self, sizes: TermSizes, *, hidden_dim: int = 256) -> None:
        super().__init__(sizes)
        if not sizes.observation:
            raise ValueError("reconstruction must have an observation to decode, got none")
        images = [key for key, shape in sizes.observation.items() if len(shape) == 3]
        key = images[0] if images else next(iter(sizes.observation))
        self.observation_keys = (key,)
        dim = math.prod(sizes.embedding_shape)
        self.decoder: nn.Module = (
            PixelDecoder(dim, sizes.observation[key])
            if images
            else mlp([dim, hidden_dim, math.prod(sizes.observation[key])])
        )
        self.is_image = bool(images)

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the sum of the two mean squared errors."""
        frames = outputs.observations[self.observation_keys[0]]  # (B, T, *O)
        frames = frames if self.is_image else frames.flatten(2)
        starts, horizon = outputs.predictions.shape[1:3]
        future = frames[:, 1:].unfold(1, horizon, 1)[:, :starts].movedim(-1, 2)  # (B, S, H, *O)
        encoded = (self.decoder(outputs.embeddings.flatten(2)) - frames).square().mean()
        return encoded + (self.decoder(outputs.predictions.flatten(3)) - future).square().mean()


class LatentKL(Term):
    """``mean max(KL(q(z | s, a, s') || N(0, 1)), free nats)``; its posterior is what the rollout draws ``z`` from.

    Args:
        sizes: of the model, whose predictor must have a latent variable.
        latent_dim: ``Z``.
        hidden_dim: width of the posterior's hidden layer.
        free_nats: information per step that costs nothing.
    """

    def __init__(
        self, sizes: TermSizes, *, latent_dim: int = 8, hidden_dim: int = 128, free_nats: float = 0.0
    ) -> None:
        super().__init__(sizes)
        self.free_nats = free_nats
        self.latent = GaussianLatent(
            math.prod(sizes.embedding_shape), sizes.action_dim, latent_dim, hidden_dim=hidden_dim
        )

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the mean divergence per step [nats]."""
        assert outputs.latent_kl is not None
        return outputs.latent_kl.clamp(min=self.free_nats).mean()


class Supervised(Term):
    """``mean |W s_t + b - y_t|^2 + mean |W p_t + b - y_t|^2`` on a standardised label, one readout for both.

    Args:
        sizes: of the model.
        key: column of the data that holds the label.
    """

    def __init__(self, sizes: TermSizes, *, key: str = "proprio") -> None:
        super().__init__(sizes)
        if key not in sizes.label_dims:
            raise ValueError(
                f"label of the supervised term must be one of {', '.join(sizes.label_dims) or 'no columns'}, got {key!r}"
            )
        self.label_keys = (key,)
        self.readout = nn.Linear(math.prod(sizes.embedding_shape), sizes.label_dims[key])

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the sum of the two mean squared errors."""
        labels = outputs.labels[self.label_keys[0]]  # (B, T, K)
        starts, horizon = outputs.predictions.shape[1:3]
        future = labels[:, 1:].unfold(1, horizon, 1)[:, :starts].movedim(-1, 2)
        encoded = (self.readout(outputs.embeddings.flatten(2)) - labels).square().mean()
        return encoded + (self.readout(outputs.predictions.flatten(3)) - future).square().mean()
