"""Mode 1: a goal-conditioned policy that acts from the embedding alone, without planning.

It is trained in imagination: from embeddings of the data, or where it came to from there, the policy acts in the world
model for a few steps and the cost of the imagined embeddings is backpropagated through the model into the policy (LeCun
2022, section 3.1.1; the gradient through a learned model is that of Nguyen & Widrow 1989). No action labels are needed.

In the world the policy may act with noise. One that misjudges an obstacle by a little presses against it forever, and
the shortest way leads along obstacles; a little noise slips past them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from planners.bounds import ActionBounds

# embedding (B, *D), action (B, A), memory or None -> next embedding (B, *D) and memory
StepFn = Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]
EmbeddingCostFn = Callable[[Tensor, Tensor, Tensor], Tensor]  # (B, H, *D), (B, H, A), goal (B, *D) -> (B,)


def check_architecture(
    hidden_dims: Sequence[int] = (), conv_channels: Sequence[int] = (), noise: float = 0.0
) -> None:
    """Raise one ``ValueError`` where widths, channels or noise are not what a :class:`GoalPolicy` is built of."""
    for name, widths in (("hidden_dims", hidden_dims), ("conv_channels", conv_channels)):
        is_list = isinstance(widths, Sequence) and not isinstance(widths, str)
        if not (is_list and all(type(width) is int and width > 0 for width in widths)):
            raise ValueError(f"{name} of a policy must be whole widths >= 1, got {widths!r}")
    if isinstance(noise, bool) or not (isinstance(noise, int | float) and 0 <= noise < math.inf):
        raise ValueError(f"noise of a policy must be a number >= 0, got {noise!r}")


class GoalPolicy(nn.Module):
    """A network on embedding and goal whose actions keep the bounds smoothly.

    Args:
        embedding_shape: ``(D,)`` or ``(C, h, w)``, flattened after the convolutions.
        low: ``(A,)`` finite lower bounds [action units].
        high: ``(A,)`` finite upper bounds.
        max_norm: radius of the ball around zero, or None.
        hidden_dims: widths of the hidden layers.
        conv_channels: channels of 3 x 3 convolutions before them, on the maps of embedding and goal together.
        noise: standard deviation of :meth:`sample` [half widths of the bounds].
        reader: a module from standardised embedding and goal, ``(B, D)`` each, to ``(B, num_features)``, an attribute
            of it, which the hidden layers then read; None is embedding and goal side by side.

    Raises:
        ValueError: a bound is not finite (a policy squashes its output into the box), a width or the noise is none,
            there are convolutions and the embedding is a vector, or convolutions and a reader.
    """

    def __init__(
        self,
        embedding_shape: Sequence[int],
        low: Sequence[float],
        high: Sequence[float],
        max_norm: float | None = None,
        *,
        hidden_dims: Sequence[int] = (256, 256),
        conv_channels: Sequence[int] = (),
        noise: float = 0.0,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not all(math.isfinite(bound) for bound in (*low, *high)):
            raise ValueError(f"action bounds of a policy must be finite, got low {low} and high {high}")
        check_architecture(hidden_dims, conv_channels, noise)
        if conv_channels and len(embedding_shape) != 3:
            raise ValueError(
                f"a policy with convolutions must act on a feature map, got embeddings of shape {tuple(embedding_shape)}"
            )
        if conv_channels and reader is not None:
            raise ValueError(
                f"conv_channels must be empty in a policy with a reader, got {tuple(conv_channels)}"
            )
        self.embedding_shape = tuple(embedding_shape)
        self.low = tuple(float(bound) for bound in low)
        self.high = tuple(float(bound) for bound in high)
        self.max_norm = max_norm
        self.hidden_dims, self.conv_channels = tuple(hidden_dims), tuple(conv_channels)
        self.noise = float(noise)
        self.reader = reader
        layers: list[nn.Module] = []
        features = 2 * math.prod(embedding_shape) if reader is None else int(reader.num_features)  # type: ignore[arg-type]
        if conv_channels:
            channels, height, width = embedding_shape
            layers.append(nn.Unflatten(1, (2 * channels, height, width)))
            for fan_in, fan_out in pairwise([2 * channels, *conv_channels]):
                layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU()]
            layers.append(nn.Flatten())
            features = conv_channels[-1] * height * width
        sizes = [features, *hidden_dims, len(self.low)]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.zeros(math.prod(embedding_shape)))
        self.register_buffer("std", torch.ones(math.prod(embedding_shape)))
        self.register_buffer(
            "center", torch.tensor([(lo + hi) / 2 for lo, hi in zip(low, high, strict=True)])
        )
        self.register_buffer(
            "half_width", torch.tensor([(hi - lo) / 2 for lo, hi in zip(low, high, strict=True)])
        )

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what embeddings are standardised with, ``(D,)`` each; a std of 0 counts as 1."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("std").copy_(torch.where(std > 0, std, torch.ones_like(std)))

    @property
    def bounds(self) -> ActionBounds:
        """The bounds that every action keeps."""
        device = self.get_buffer("center").device
        return ActionBounds(
            torch.tensor(self.low, device=device), torch.tensor(self.high, device=device), self.max_norm
        )

    def forward(self, embedding: Tensor, goal: Tensor) -> Tensor:
        """Choose actions ``(B, A)`` at ``embedding (B, *D)`` for ``goal (B, *D)``."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        here, there = (embedding.flatten(1) - mean) / std, (goal.flatten(1) - mean) / std
        raw = self.layers(
            torch.cat([here, there], dim=-1) if self.reader is None else self.reader(here, there)
        )
        if self.max_norm is None:
            return self.get_buffer("center") + self.get_buffer("half_width") * raw.tanh()
        norm = raw.square().sum(dim=-1, keepdim=True).add(1e-12).sqrt()
        action = raw * (self.max_norm * norm.tanh() / norm)
        return action.clamp(self.get_buffer("center") - self.get_buffer("half_width"), self._high())

    def sample(self, embedding: Tensor, goal: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions ``(B, A)`` around :meth:`forward`, projected onto the bounds; that itself where ``noise`` is 0.

        Args:
            embedding: ``(B, *D)``.
            goal: ``(B, *D)``.
            generator: on the device of the policy, or None for torch's own.
        """
        action = self(embedding, goal)
        if self.noise == 0:
            return action
        normal = torch.randn(action.shape, generator=generator, device=action.device, dtype=action.dtype)
        return self.bounds.project(action + self.noise * self.get_buffer("half_width") * normal)

    def _high(self) -> Tensor:
        return self.get_buffer("center") + self.get_buffer("half_width")


def imagine(
    policy: nn.Module, step: StepFn, embedding: Tensor, goal: Tensor, horizon: int
) -> tuple[Tensor, Tensor]:
    """Let the policy act in the world model.

    Args:
        policy: ``(embedding, goal) -> action``.
        step: one step of the world model; it is handed the memory that it returned, at first None.
        embedding: ``(B, *D)`` where imagination starts.
        goal: ``(B, *D)``.
        horizon: steps, ``H``.

    Returns:
        Embeddings ``(B, H, *D)`` after each action, and actions ``(B, H, A)``.
    """
    embeddings, actions, memory = [], [], None
    for _ in range(horizon):
        action = policy(embedding, goal)
        embedding, memory = step(embedding, action, memory)
        embeddings.append(embedding)
        actions.append(action)
    return torch.stack(embeddings, dim=1), torch.stack(actions, dim=1)


class Carrying(Protocol):
    """Lets the starts of a batch go on where the last imagination ended; a module with what it carries as buffers."""

    def mix(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Return starts and goals ``(M, D)`` of ``batch``, some of them carried on."""

    def keep(self, ahead: Tensor, goal: Tensor, batch: Mapping[str, Tensor], step: int) -> None:
        """Carry on places ``ahead (M, D)`` that were reached on the way to ``goal (M, D)``."""


class ImaginationObjective(nn.Module):
    """The cost of what a policy imagines, without its noise, as a training objective.

    Args:
        policy: the policy to train.
        step: one step of a frozen world model, differentiable in embedding and action.
        cost: a differentiable cost of imagined embeddings.
        horizon: imagined steps.
        carried: what lets starts go on where imagination ended, see :class:`worldmodel.carrying.CarriedStarts`; None: all
            are of the batch.
    """

    def __init__(
        self,
        policy: GoalPolicy,
        step: StepFn,
        cost: EmbeddingCostFn,
        *,
        horizon: int = 4,
        carried: Carrying | None = None,
    ) -> None:
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        self.policy = policy
        self.horizon = horizon
        self.carried = carried
        # Kept out of the module tree: the model and the cost are used, not trained or saved.
        self._step = (step,)
        self._cost = (cost,)

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:
        """Return ``{"imagined_cost": mean cost}`` for ``batch["start"]`` and ``batch["goal"]``, ``(M, *D)``."""
        start, goal = batch["start"], batch["goal"]
        flat = {"start": start.flatten(1), "goal": goal.flatten(1)}
        if self.carried is not None:
            start, goal = (rows.view_as(start) for rows in self.carried.mix(flat, step))
        embeddings, actions = imagine(self.policy, self._step[0], start, goal, self.horizon)
        if self.carried is not None:
            self.carried.keep(embeddings[:, -1].flatten(1), goal.flatten(1), flat, step)
        return {"imagined_cost": self._cost[0](embeddings, actions, goal).mean()}
