"""The world model's dynamics in embedding space, ``s' = Pred(s, a, z)``.

A predictor maps the current embedding, the action, an optional latent variable ``z`` and the short-term memory to the
next embedding *before* normalisation; :class:`worldmodel.jepa.JEPA` normalises it as it normalises the encoder's output.
Predictors that need only the current step have ``context == 0`` and ignore the memory.

The transformer conditions on the action with AdaLN-zero (Peebles & Xie 2023, arXiv 2212.09748, section 3.2), attends to
the last ``context`` steps and the present one, and is causal over steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.encoders import mlp
from worldmodel.memory import ShortTermMemory


class Predictor(nn.Module):
    """What every predictor has: the sizes it was built for and how many past steps it reads.

    Args:
        embedding_shape: ``(D,)`` or ``(C, h, w)``.
        action_dim: ``A``.
        latent_dim: ``Z``, 0 for a deterministic predictor.
    """

    context: int = 0

    def __init__(self, embedding_shape: Sequence[int], action_dim: int, latent_dim: int = 0) -> None:
        super().__init__()
        self.embedding_shape = tuple(embedding_shape)
        self.condition_dim = action_dim + latent_dim
        self.latent_dim = latent_dim

    def condition(self, action: Tensor, latent: Tensor | None) -> Tensor:
        """Join ``action (B, A)`` and ``latent (B, Z)`` to ``(B, A + Z)``."""
        if self.latent_dim == 0:
            if latent is not None:
                raise ValueError("latent must be None for a predictor with latent_dim 0, got a tensor")
            return action
        if latent is None:
            latent = action.new_zeros(*action.shape[:-1], self.latent_dim)
        return torch.cat([action, latent], dim=-1)

    def forward(
        self, embedding: Tensor, action: Tensor, latent: Tensor | None, memory: ShortTermMemory | None
    ) -> Tensor:
        """Predict the next ``(B, *D)`` from ``embedding (B, *D)`` and ``action (B, A)``."""
        raise NotImplementedError


class ResidualMLPPredictor(Predictor):
    """``s + MLP([s, a, z])``; the last layer starts at a tenth, so the first prediction is close to ``s``."""

    def __init__(
        self,
        embedding_shape: Sequence[int],
        action_dim: int,
        latent_dim: int = 0,
        *,
        hidden_dims: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__(embedding_shape, action_dim, latent_dim)
        size = math.prod(embedding_shape)
        self.layers = mlp([size + self.condition_dim, *hidden_dims, size])
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)  # type: ignore[operator]
            self.layers[-1].bias.zero_()  # type: ignore[operator]

    def forward(
        self,
        embedding: Tensor,
        action: Tensor,
        latent: Tensor | None,
        memory: ShortTermMemory | None,  # noqa: ARG002
    ) -> Tensor:
        """Predict ``(B, *D)``; the memory is not read."""
        flat = embedding.flatten(1)
        step = self.layers(torch.cat([flat, self.condition(action, latent)], dim=-1))
        return (flat + step).view(embedding.shape)


class GRUPredictor(Predictor):
    """One GRU layer whose hidden state is the embedding and whose input is the action (Sobal et al. 2022)."""

    def __init__(self, embedding_shape: Sequence[int], action_dim: int, latent_dim: int = 0) -> None:
        super().__init__(embedding_shape, action_dim, latent_dim)
        self.cell = nn.GRUCell(self.condition_dim, math.prod(embedding_shape))

    def forward(
        self,
        embedding: Tensor,
        action: Tensor,
        latent: Tensor | None,
        memory: ShortTermMemory | None,  # noqa: ARG002
    ) -> Tensor:
        """Predict ``(B, *D)``; the memory is not read."""
        return self.cell(self.condition(action, latent), embedding.flatten(1)).view(embedding.shape)


class ConvPredictor(Predictor):
    """Residual convolutions over a feature map; action and latent enter as constant planes."""

    def __init__(
        self,
        embedding_shape: Sequence[int],
        action_dim: int,
        latent_dim: int = 0,
        *,
        hidden_channels: int = 64,
        num_layers: int = 3,
    ) -> None:
        super().__init__(embedding_shape, action_dim, latent_dim)
        if len(embedding_shape) != 3:
            raise ValueError(
                f"embedding_shape must be (C, h, w) for a convolutional predictor, got {embedding_shape}"
            )
        channels = embedding_shape[0]
        widths = [channels + self.condition_dim, *[hidden_channels] * (num_layers - 1), channels]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(
        self,
        embedding: Tensor,
        action: Tensor,
        latent: Tensor | None,
        memory: ShortTermMemory | None,  # noqa: ARG002
    ) -> Tensor:
        """Predict ``(B, C, h, w)``; the memory is not read."""
        planes = self.condition(action, latent)[..., None, None].expand(-1, -1, *embedding.shape[-2:])
        return embedding + self.layers(torch.cat([embedding, planes], dim=1))


class AdaLNBlock(nn.Module):
    """Pre-norm attention and MLP whose shifts, scales and gates come from the step's condition (AdaLN-zero)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """Map ``tokens (B, L, W)`` with ``condition (B, L, W)`` and attention ``mask (B, 1, L, L)``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        width = tokens.shape[-1:]
        x = F.layer_norm(tokens, width) * (1 + scale1) + shift1
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        tokens = tokens + gate1 * self.out(rearrange(attended, "b h l d -> b l (h d)"))
        x = F.layer_norm(tokens, width) * (1 + scale2) + shift2
        return tokens + gate2 * self.feedforward(x)


class TransformerPredictor(Predictor):
    """A causal transformer over the last ``context`` steps and the present one.

    A vector embedding is one token per step, a feature map one token per position. The prediction is residual: the
    output of the present step's tokens is added to the present embedding.

    Args:
        embedding_shape: ``(D,)`` or ``(C, h, w)``.
        action_dim: ``A``.
        latent_dim: ``Z``.
        context: past steps read from the short-term memory, ``K``.
        width: token width.
        num_layers: AdaLN blocks.
        num_heads: attention heads.
    """

    def __init__(
        self,
        embedding_shape: Sequence[int],
        action_dim: int,
        latent_dim: int = 0,
        *,
        context: int = 3,
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
    ) -> None:
        super().__init__(embedding_shape, action_dim, latent_dim)
        if context < 0:
            raise ValueError(f"context must be >= 0, got {context}")
        self.context = context
        self.num_tokens = math.prod(embedding_shape[1:])
        self.embed = nn.Linear(embedding_shape[0], width)
        self.embed_condition = nn.Linear(self.condition_dim, width)
        self.step_position = nn.Parameter(0.02 * torch.randn(context + 1, 1, width))
        self.token_position = nn.Parameter(0.02 * torch.randn(1, self.num_tokens, width))
        self.blocks = nn.ModuleList(AdaLNBlock(width, num_heads) for _ in range(num_layers))
        self.head = nn.Linear(width, embedding_shape[0])
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, embedding: Tensor, action: Tensor, latent: Tensor | None, memory: ShortTermMemory | None
    ) -> Tensor:
        """Predict ``(B, *D)`` from the present step and the memory (``None``: an empty past)."""
        batch, steps = len(embedding), self.context + 1
        if memory is None:
            action_dim = self.condition_dim - self.latent_dim
            memory = ShortTermMemory.empty(
                batch, self.context, self.embedding_shape, action_dim, embedding.device
            )
        sequence = torch.cat([memory.embeddings.to(embedding.dtype), embedding[:, None]], dim=1)
        past = self.condition(memory.actions.to(action.dtype), None)
        condition = torch.cat([past, self.condition(action, latent)[:, None]], dim=1)  # (B, K + 1, A + Z)
        tokens = sequence.flatten(3) if sequence.ndim > 3 else sequence[..., None]
        tokens = (
            self.embed(rearrange(tokens, "b t c p -> b t p c")) + self.step_position + self.token_position
        )
        tokens = rearrange(tokens, "b t p w -> b (t p) w")
        condition = self.embed_condition(condition).repeat_interleave(self.num_tokens, dim=1)
        mask = self._mask(memory.valid, steps)
        for block in self.blocks:
            tokens = block(tokens, condition, mask)
        present = F.layer_norm(tokens[:, -self.num_tokens :], tokens.shape[-1:])
        return embedding + rearrange(self.head(present), "b p c -> b c p").reshape(embedding.shape)

    def _mask(self, valid: Tensor, steps: int) -> Tensor:
        """Who may attend to whom, ``(B, 1, L, L)``: earlier valid steps, and always one's own step."""
        valid = F.pad(valid, (0, 1), value=True)
        causal = torch.ones(steps, steps, dtype=torch.bool, device=valid.device).tril()
        own = torch.eye(steps, dtype=torch.bool, device=valid.device)
        mask = (causal & valid[:, None, :]) | own
        mask = mask.repeat_interleave(self.num_tokens, 1).repeat_interleave(self.num_tokens, 2)
        return mask[:, None]
