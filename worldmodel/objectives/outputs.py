"""What the terms of an objective see, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class JEPAOutputs:
    """What a JEPA computed on a batch of windows.

    Attributes:
        embeddings: ``(B, T, *D)`` of the online encoder.
        targets: ``(B, T, *D)`` of the target branch.
        predictions: ``(B, S, H, *D)``; ``[:, i, k]`` predicts frame ``i + k + 1`` from frame ``i``.
        actions: ``(B, T - 1, A)``, divided by the action scale.
        shuffled: ``(B, S, N, H, *D)`` predictions from the same frames under the actions of ``N`` other windows; None
            unless a term asks for them.
        latent_kl: ``(B, S, H)`` divergence of the latent variable from its prior [nats]; None without one.
        observations: normalised observations ``(B, T, *O)`` by key, of the keys that terms ask for.
        labels: standardised labels ``(B, T, K)`` by key, likewise.
        seed: seed of this step's randomness; the same on every rank.
    """

    embeddings: Tensor
    targets: Tensor
    predictions: Tensor
    actions: Tensor
    seed: int = 0
    shuffled: Tensor | None = None
    latent_kl: Tensor | None = None
    observations: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TermSizes:
    """The sizes of a model that a term may need to build its own layers.

    Attributes:
        embedding_shape: ``(D,)`` or ``(C, h, w)``.
        action_dim: ``A``.
        observation: shape per observation key.
        label_dims: number of values per label key that the data holds beside the observations.
    """

    embedding_shape: tuple[int, ...]
    action_dim: int
    observation: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    label_dims: Mapping[str, int] = field(default_factory=dict)


class Term(nn.Module):
    """One named, unweighted part of an objective.

    Args:
        sizes: of the model.

    Attributes:
        num_shuffled: how many rollouts under other windows' actions the term compares with.
        observation_keys: normalised observations that the term reads.
        label_keys: labels that it reads; the batch must hold them.
    """

    num_shuffled: int = 0
    observation_keys: tuple[str, ...] = ()
    label_keys: tuple[str, ...] = ()

    def __init__(self, sizes: TermSizes) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, outputs: JEPAOutputs) -> Tensor:
        """Return the scalar value of the term."""
        raise NotImplementedError


def feature_samples(embeddings: Tensor) -> Tensor:
    """Flatten ``(B, T, D)`` to ``(B * T, D)``, or ``(B, T, C, h, w)`` to ``(B * T * h * w, C)``.

    The samples of a feature map are its positions: statistics over features are taken over channels.
    """
    if embeddings.ndim == 3:
        return embeddings.flatten(0, 1)
    return embeddings.movedim(2, -1).flatten(0, -2)


def matched_targets(outputs: JEPAOutputs) -> Tensor:
    """Return the target of every prediction, ``(B, S, H, *D)``."""
    starts, horizon = outputs.predictions.shape[1:3]
    return outputs.targets[:, 1:].unfold(1, horizon, 1)[:, :starts].movedim(-1, 2)
