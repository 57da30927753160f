"""Training on cached embeddings: the refit of the predictor, and random windows and pairs of rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmarks.seeding import derive_seed
from worldmodel.jepa import JEPA


class PredictorObjective(nn.Module):
    """Open-loop prediction of cached embeddings; only the predictor and its LayerNorm are trained.

    Args:
        model: a JEPA with an untied LayerNorm; everything but predictor and its norm should be frozen.
    """

    def __init__(self, model: JEPA) -> None:
        super().__init__()
        self.predictor = model.predictor.requires_grad_(True)
        self.norm = model.predictor_norm.requires_grad_(True)
        self._model = (model,)  # not a submodule: its encoder is neither trained nor saved here

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``{"prediction": MSE}`` for ``embedding (M, H + 1, D)`` flat and ``action (M, H, A)``."""
        model = self._model[0]
        embeddings = batch["embedding"]
        start = embeddings[:, 0].unflatten(1, model.embedding_shape)
        predictions = model.rollout(start, batch["action"]).flatten(2)
        return {"prediction": (predictions - embeddings[:, 1:]).square().mean()}


class RowPairs:
    """Pairs of random frames as start and goal.

    Args:
        embeddings: ``(rows, D)``.
        batch_size: pairs per batch.
        seed: batches are a function of ``(seed, step)``.
    """

    def __init__(self, embeddings: Tensor, batch_size: int, seed: int) -> None:
        self.embeddings, self.batch_size, self.seed = embeddings, batch_size, seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ``start`` and ``goal (batch_size, D)`` of the batch of ``step``."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, step))
        rows = torch.randint(len(self.embeddings), (2, self.batch_size), generator=generator)
        start, goal = rows.to(self.embeddings.device)
        return {"start": self.embeddings[start], "goal": self.embeddings[goal]}


class RowValues:
    """Random frames, each with the vector of the data that belongs to it.

    Args:
        embeddings: ``(rows, D)``.
        values: ``(rows, K)``.
        batch_size: frames per batch.
        seed: batches are a function of ``(seed, step)``.
    """

    def __init__(self, embeddings: Tensor, values: Tensor, batch_size: int, seed: int) -> None:
        self.embeddings, self.values = embeddings, values
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ``embedding (batch_size, D)`` and ``value (batch_size, K)`` of the batch of ``step``."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, step))
        rows = torch.randint(len(self.values), (self.batch_size,), generator=generator)
        rows = rows.to(self.values.device)
        return {"embedding": self.embeddings[rows], "value": self.values[rows]}


class RowWindows:
    """Rows of random windows within episodes.

    Args:
        offsets: ``(E + 1,)`` first row of each episode, and the number of rows.
        num_steps: steps of a window; it has one row more.
        batch_size: windows per batch.
        seed: batches are a function of ``(seed, step)``.
    """

    def __init__(self, offsets: Tensor, num_steps: int, batch_size: int, seed: int) -> None:
        lengths = offsets.diff().tolist()
        self.starts = torch.cat(
            [
                torch.arange(first, first + max(0, length - num_steps))
                for first, length in zip(offsets[:-1].tolist(), lengths, strict=True)
            ]
        )
        if len(self.starts) == 0:
            raise ValueError(
                f"num_steps must be < the rows of the longest episode ({max(lengths)}), got {num_steps}"
            )
        self.within = torch.arange(num_steps + 1)
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, step: int) -> Tensor:
        """Return the rows of the windows of ``step``, ``(batch_size, num_steps + 1)``."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, step))
        chosen = torch.randint(len(self.starts), (self.batch_size,), generator=generator)
        return self.starts[chosen][:, None] + self.within
