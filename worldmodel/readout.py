"""What an embedding says of an observation, and a cost that is a rule on it.

A critic learns how far it is; a hard-wired cost is told (the intrinsic cost of LeCun 2022, section 3.2). It needs
something to look at: a readout, regressed on frames of the data, says what proprioception would be in an imagined
embedding, and the rule rates that. The world model is none the wiser: its encoder is frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.checkpoint import CheckpointError, load_folder, load_state, save_folder, state_tensors
from worldmodel.costs import Cost, flatten_embeddings
from worldmodel.encoders import mlp


@dataclass(frozen=True)
class ReadoutConfig:
    """Sizes of a readout."""

    hidden_dims: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims of a readout must be >= 1, got {self.hidden_dims}")


class Readout(nn.Module):
    """An MLP from an embedding to a vector of the data, in the units of the data.

    Args:
        embedding_dim: ``D``, flat.
        num_values: of the vector, ``K``.
        config: sizes.
    """

    def __init__(self, embedding_dim: int, num_values: int, config: ReadoutConfig | None = None) -> None:
        super().__init__()
        self.config = config or ReadoutConfig()
        self.embedding_dim, self.num_values = embedding_dim, num_values
        self.layers = mlp([embedding_dim, *self.config.hidden_dims, num_values])
        for name, size in (("embedding", embedding_dim), ("value", num_values)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("is_of_goal", torch.ones(num_values))

    def set_goal_values(self, rule: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> None:
        """Note which values of a goal ``rule`` reads at all: those whose change changes it.

        A goal shows more than it asks for, such as where a pusher is while its block matters. Who learns from frames as
        goals must not learn that the pusher is beside the block.

        Args:
            rule: as of :class:`ReadoutCost`.
            values: ``(N, K)`` of the data.
        """
        near = values + 0.01 * self.get_buffer("value_std")
        with torch.enable_grad():
            goal = torch.cat([values.roll(1, 0), near]).requires_grad_(True)
            (slope,) = torch.autograd.grad(rule(values.repeat(2, 1), goal).sum(), goal)
        self.get_buffer("is_of_goal").copy_((slope.abs().amax(0) > 0).float())

    @torch.no_grad()
    def set_statistics(self, embeddings: Tensor, values: Tensor) -> None:
        """Standardise as ``embeddings (N, D)`` and ``values (N, K)`` are distributed; a std of 0 counts as 1."""
        for name, rows in (("embedding", embeddings.float()), ("value", values.float())):
            std = rows.std(dim=0)
            self.get_buffer(f"{name}_mean").copy_(rows.mean(dim=0))
            self.get_buffer(f"{name}_std").copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, embedding: Tensor) -> Tensor:
        """Read ``(..., K)`` off ``embedding (..., D)``, flat."""
        scaled = (embedding - self.get_buffer("embedding_mean")) / self.get_buffer("embedding_std")
        return self.layers(scaled) * self.get_buffer("value_std") + self.get_buffer("value_mean")

    def standardised(self, embedding: Tensor) -> Tensor:
        """Read ``(..., K)`` off ``embedding (..., D)`` in units of the values' spread around their mean."""
        return (self(embedding) - self.get_buffer("value_mean")) / self.get_buffer("value_std")

    def pair(self, start: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`standardised` of either, with zeros for what does not matter of the goal."""
        return self.standardised(start), self.standardised(goal) * self.get_buffer("is_of_goal")


class SeenPair(nn.Module):
    """What a policy reads off start and goal where the cost reads them off, too: what a readout says of either.

    Args:
        readout: trained, and used as it is.
    """

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        self.readout = readout.requires_grad_(False)
        self.num_features = 2 * readout.num_values

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return ``(B, num_features)`` of ``start (B, D)`` and ``goal (B, D)``, flat."""
        return torch.cat(self.readout.pair(start, goal), dim=-1)


class ReadoutObjective(nn.Module):
    """Regression of a readout.

    Args:
        readout: the readout to train.
    """

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        self.readout = readout

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``{"readout": MSE}``, standardised, of ``embedding (M, D)``, ``value (M, K)``; ``step`` is not read."""
        error = (self.readout(batch["embedding"]) - batch["value"]) / self.readout.get_buffer("value_std")
        return {"readout": error.square().mean()}


class ReadoutCost(Cost):
    """A rule on what a readout says of the imagined embeddings and of the goal's, summed over the plan.

    Args:
        readout: from embeddings to what the rule reads.
        rule: ``(values (..., K), goal's (..., K)) -> (...)``, whose leading axes broadcast.
    """

    def __init__(self, readout: Readout, rule: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.readout = readout
        self.rule = rule

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Return the sum of the rule over the steps."""
        flat, target = flatten_embeddings(embeddings, actions, goal)
        return self.rule(self.readout(flat), self.readout(target)[..., None, :]).sum(dim=-1)


def readout_sizes(readout: Readout) -> dict[str, Any]:
    """Return what :func:`make_readout` builds another one like it from."""
    sizes = {"embedding_dim": readout.embedding_dim, "num_values": readout.num_values}
    return {"readout": dataclasses.asdict(readout.config), **sizes}


def make_readout(sizes: Mapping[str, Any]) -> Readout:
    """Build an untrained readout."""
    return Readout(sizes["embedding_dim"], sizes["num_values"], ReadoutConfig(**sizes["readout"]))


def save_readout(path: Path | str, readout: Readout) -> None:
    """Write the readout as a checkpoint folder."""
    save_folder(path, {"kind": "readout", **readout_sizes(readout)}, state_tensors(readout))


def load_readout(path: Path | str, device: torch.device | str = "cpu") -> Readout:
    """Load a readout written by :func:`save_readout`.

    Raises:
        CheckpointError: the folder is not a usable readout checkpoint.
    """
    config, tensors = load_folder(path, "readout")
    try:
        readout = make_readout(config)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json must describe a readout, got {path}: {error}") from error
    load_state(readout, tensors, path)
    return readout.to(device).eval()
