"""Short-term memory: the last embeddings and actions, for predictors that look further back than one step.

The memory is a value: :meth:`ShortTermMemory.push` returns the next one and leaves the old one as it was, so that a
planner can branch thousands of imagined futures from one remembered past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShortTermMemory:
    """The last ``K`` steps before the current embedding, oldest first.

    Attributes:
        embeddings: ``(B, K, *D)``.
        actions: ``(B, K, A)``; ``actions[:, k]`` was taken at ``embeddings[:, k]``.
        valid: ``(B, K)`` bool, false where nothing happened yet.
    """

    embeddings: Tensor
    actions: Tensor
    valid: Tensor

    @classmethod
    def empty(
        cls,
        batch: int,
        length: int,
        embedding_shape: Sequence[int],
        action_dim: int,
        device: torch.device | str = "cpu",
    ) -> ShortTermMemory:
        """Return a memory of ``length`` steps that holds nothing yet."""
        return cls(
            torch.zeros(batch, length, *embedding_shape, device=device),
            torch.zeros(batch, length, action_dim, device=device),
            torch.zeros(batch, length, dtype=torch.bool, device=device),
        )

    def push(self, embedding: Tensor, action: Tensor) -> ShortTermMemory:
        """Return the memory after ``action (B, A)`` was taken at ``embedding (B, *D)``; the oldest step drops out."""
        return ShortTermMemory(
            torch.cat([self.embeddings[:, 1:], embedding[:, None].to(self.embeddings.dtype)], dim=1),
            torch.cat([self.actions[:, 1:], action[:, None].to(self.actions.dtype)], dim=1),
            torch.cat([self.valid[:, 1:], torch.ones_like(self.valid[:, :1])], dim=1),
        )

    def repeat(self, num: int) -> ShortTermMemory:
        """Return ``(B * num)`` rows, each row ``num`` times in a run."""
        return ShortTermMemory(
            self.embeddings.repeat_interleave(num, dim=0),
            self.actions.repeat_interleave(num, dim=0),
            self.valid.repeat_interleave(num, dim=0),
        )

    def forget(self, mask: Tensor) -> ShortTermMemory:
        """Return the memory with the rows of ``mask (B,)`` emptied."""
        return ShortTermMemory(self.embeddings, self.actions, self.valid & ~mask[:, None])
