"""The trainable cost: a goal-conditioned critic that predicts from embeddings what is still to come.

``d(s, g)`` estimates the number of environment steps between two embeddings. Embedding distance knows no doors; this
does. It is a distance of features, ``|phi(s) - phi(g)|`` (Wang et al. 2023, arXiv 2304.01203, for metric heads), with a
residual in one direction where the way back is another; or where the embedding is a map, values that spread over it
(:mod:`worldmodel.value_map`). It is trained offline on the trajectories of the world model, in one of three ways:

* temporal differences (:class:`CriticObjective`): hindsight goals (later frames of the same trajectory) and random ones,
  n-step targets without discount, a moving-average target network, and an expectile-like asymmetric squared error that
  leans towards the *shortest* way seen (Kostrikov et al. 2022, arXiv 2110.06169). Enough for one layout.
* regression on shortest paths (:class:`PathObjective`) over the frames of episodes that share a world
  (:mod:`worldmodel.paths`). Layouts that differ from episode to episode need it.
* value iteration in imagination (:mod:`worldmodel.value_iteration`): not the steps but the sum of a hard-wired cost over
  them, which is no distance of features, so a plain network estimates it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.checkpoint import CheckpointError, load_folder, load_state, save_folder, state_tensors
from worldmodel.costs import Cost, flatten_embeddings
from worldmodel.encoders import mlp
from worldmodel.readout import Readout, make_readout, readout_sizes
from worldmodel.value_map import ValueMap

HEADS = ("metric", "quasimetric", "value_map", "mlp")


@dataclass(frozen=True)
class CriticConfig:
    """Architecture and objective of the critic."""

    # Of HEADS. A quasimetric need not be symmetric, a value map is of feature maps only, an mlp need not be a distance.
    head: str = "metric"
    reads: str = "embedding"  # or what a "readout" says of it, as the cost does
    feature_dim: int = 32  # size of phi, or value maps
    hidden_dims: tuple[int, ...] = (
        256,
        256,
    )  # of phi; of a value map the first is what its convolutions have
    num_iterations: int = 24  # how far a value map spreads [positions of the map]
    sharpness: float = 4.0  # of its attention; at 1 some seeds never get beyond looking everywhere
    max_lag: int = 8  # n of the n-step targets is uniform in 1 .. max_lag
    hindsight: float = 0.6  # share of goals from the same trajectory; the rest are random frames
    hindsight_mean: float = 25.0  # mean offset of a hindsight goal, geometric [steps]
    expectile: float = 0.9  # weight of the error where the critic overestimates the steps; 0.5 is symmetric
    target_rate: float = 0.01  # share of the online weights entering the target per step
    scale: float = 1.0  # steps per unit of distance between features, or cost per unit of the mlp's output

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        if self.reads not in ("embedding", "readout"):
            raise ValueError(f"reads must be embedding or readout, got {self.reads!r}")
        if self.reads == "readout" and self.head == "value_map":
            raise ValueError("reads must be embedding where the head is a value map, got 'readout'")
        for name in ("hindsight", "expectile", "target_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("max_lag", "feature_dim", "num_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims must be >= 1, got {self.hidden_dims}")
        for name in ("scale", "sharpness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not self.hindsight_mean >= 1:
            raise ValueError(f"hindsight_mean must be >= 1, got {self.hindsight_mean}")


class MetricHead(nn.Module):
    """``d(s, g) = |phi(s) - phi(g)|``: symmetric, and no way is longer than a detour.

    Args:
        size: of an embedding, flat.
        hidden_dims: of ``phi``.
        feature_dim: what it returns.
    """

    def __init__(self, size: int, hidden_dims: Sequence[int], feature_dim: int) -> None:
        super().__init__()
        self.phi = mlp([size, *hidden_dims, feature_dim])

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return ``(...)`` from ``start (..., D)`` to ``goal (..., D)``, broadcasting."""
        difference = self.phi(start) - self.phi(goal)
        return difference.square().sum(dim=-1).add(1e-8).sqrt()


class QuasimetricHead(MetricHead):
    """A metric plus a residual that grows in one direction: ``|phi(s) - phi(g)| + max_k relu(psi_k(s) - psi_k(g))``.

    No way is longer than a detour, but there and back may differ, as where something falls (Liu et al. 2023, metric
    residual networks, arXiv 2208.08133).

    Args:
        size: of an embedding, flat.
        hidden_dims: of ``phi`` and ``psi``.
        feature_dim: what either returns.
    """

    def __init__(self, size: int, hidden_dims: Sequence[int], feature_dim: int) -> None:
        super().__init__(size, hidden_dims, feature_dim)
        self.psi = mlp([size, *hidden_dims, feature_dim])

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return ``(...)`` from ``start (..., D)`` to ``goal (..., D)``, broadcasting."""
        return super().forward(start, goal) + (self.psi(start) - self.psi(goal)).relu().amax(-1)


class ValueHead(nn.Module):
    """Two networks on start and goal side by side, any function of them; the value is their mean.

    Minima over candidates prefer what a network underrates. Where that matters, :meth:`worst` believes the other one
    (clipped double Q-learning: Fujimoto et al. 2018, arXiv 1802.09477).

    Args:
        size: of what is seen of either.
        hidden_dims: of the networks.
    """

    def __init__(self, size: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp([2 * size, *hidden_dims, 1]) for _ in range(2))

    def each(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return ``(2, ...)`` from ``start (..., D)`` to ``goal (..., D)``, broadcasting."""
        both = torch.cat(torch.broadcast_tensors(start, goal), dim=-1)
        return torch.stack([network(both)[..., 0] for network in self.networks])

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return the mean ``(...)``."""
        return self.each(start, goal).mean(0)

    def worst(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return the larger of both, ``(...)``."""
        return self.each(start, goal).amax(0)


def _make_head(embedding_shape: Sequence[int], size: int, config: CriticConfig) -> nn.Module:
    if config.head in ("metric", "quasimetric"):
        head = MetricHead if config.head == "metric" else QuasimetricHead
        return head(size, config.hidden_dims, config.feature_dim)
    if config.head == "mlp":
        return ValueHead(size, config.hidden_dims)
    return make_value_map(embedding_shape, config)


def make_value_map(embedding_shape: Sequence[int], config: CriticConfig) -> ValueMap:
    """Build the untrained head of a critic whose head is a value map.

    Raises:
        ValueError: the critic has another head, or the embedding is no map.
    """
    if config.head != "value_map":
        raise ValueError(f"head of the critic must be 'value_map', got {config.head!r}")
    return ValueMap(
        embedding_shape,
        channels=config.feature_dim,
        hidden_channels=config.hidden_dims[0],
        num_iterations=config.num_iterations,
        sharpness=config.sharpness,
    )


class Critic(Cost):
    """Predicted steps to go between embeddings, or what a cost will sum up to; as a cost, from the last imagined one.

    Args:
        embedding_shape: ``(D,)`` or ``(C, h, w)``, flattened.
        config: architecture and objective.
        summed: as a cost, sum the steps to go over all imagined embeddings instead of taking the last.
        readout: what a critic that reads a readout reads, frozen.

    Raises:
        ValueError: the critic reads a readout and has none.
    """

    def __init__(
        self,
        embedding_shape: Sequence[int],
        config: CriticConfig | None = None,
        *,
        summed: bool = False,
        readout: Readout | None = None,
    ) -> None:
        super().__init__()
        self.config = config or CriticConfig()
        self.embedding_shape = tuple(embedding_shape)
        self.summed = summed
        size = math.prod(embedding_shape)
        self.readout = None
        if self.config.reads == "readout":
            if readout is None:
                raise ValueError("a critic that reads a readout must be given one, got None")
            self.readout, size = readout.requires_grad_(False), readout.num_values
        self.head = _make_head(embedding_shape, size, self.config)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what embeddings are standardised with, ``(D,)`` each; a std of 0 counts as 1. A readout does so itself."""
        if self.readout is not None:
            return
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("std").copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def distance(self, embedding: Tensor, goal: Tensor, head: nn.Module | None = None) -> Tensor:
        """Predict the steps from ``embedding (..., D)`` to ``goal (..., D)`` (flat, broadcasting), ``(...)``.

        Args:
            embedding: where from.
            goal: where to.
            head: another of the same shape, e.g. a moving average of this one's.
        """
        return self.config.scale * (head or self.head)(*self.seen(embedding, goal))

    def seen(self, embedding: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head is shown of either, in units of its spread."""
        if self.readout is not None:
            return self.readout.pair(embedding, goal)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (embedding - mean) / std, (goal - mean) / std

    def forward(self, embeddings: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Return the predicted steps to go after the last action, or their sum over the plan."""
        flat, target = flatten_embeddings(embeddings, actions, goal)
        if self.summed:
            return self.distance(flat, target[..., None, :]).sum(dim=-1)
        return self.distance(flat[..., -1, :], target)


class CriticObjective(nn.Module):
    """A critic, its moving-average target and the n-step temporal-difference loss.

    Args:
        critic: the critic to train.
    """

    terms = ("steps_to_go",)

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic
        self.target_head = copy.deepcopy(critic.head).requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``{"steps_to_go": loss}`` for a batch of :class:`GoalPairs`; ``step`` is not read."""
        prediction = self.critic.distance(batch["start"], batch["goal"])
        with torch.no_grad():
            ahead = self.critic.distance(batch["ahead"], batch["goal"], head=self.target_head)
            bootstrapped = batch["lag"] + ahead * batch["bootstrap"]
        error = prediction - bootstrapped
        tau = self.critic.config.expectile
        weight = torch.where(error > 0, tau, 1 - tau)
        return {"steps_to_go": (weight * error.square()).mean()}

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network towards the online one by ``target_rate``."""
        rate = self.critic.config.target_rate
        for target, source in zip(self.target_head.parameters(), self.critic.head.parameters(), strict=True):
            target.lerp_(source, rate)


class PathObjective(nn.Module):
    """Regression of the critic on the lengths of shortest paths; the error is squared up to 5 steps, absolute beyond.

    A value map reads its values where attention finds the agent, and has to find it before paths teach it anything: some
    draws of its weights never do. So it is told where to look. What differs most from the mean of a world's frames is
    what moves in it.

    Args:
        critic: the critic to train.
    """

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic
        self.terms = ("path_length", *(["attention"] if isinstance(critic.head, ValueMap) else []))

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``{"path_length": loss}`` for a batch of :class:`worldmodel.paths.PathPairs`; ``step`` is not read.

        Of a value map also ``"attention"``, the cross-entropy of where it finds the agent.
        """
        prediction = self.critic.distance(batch["start"], batch["goal"])
        terms = {"path_length": F.huber_loss(prediction, batch["steps"], delta=5.0)}
        if isinstance(self.critic.head, ValueMap):
            start, world = self.critic.seen(batch["start"], batch["world"])
            shape = self.critic.embedding_shape
            moved = (start - world).unflatten(1, shape).square().sum(1, keepdim=True)  # (M, 1, h, w)
            # Where nothing ever moves the spread is small, and a trace of what moves beside it stands out: the middle of
            # what differs is meant, not its peak.
            around = F.avg_pool2d(moved, 3, stride=1, padding=1).flatten(1)
            logits, _ = self.critic.head.places(start.unflatten(1, shape))
            terms["attention"] = F.cross_entropy(logits, around.argmax(1))
        return terms


class GoalPairs:
    """Batches of (start, n steps ahead, goal) embeddings from cached trajectories.

    Args:
        embeddings: ``(rows, D)``, all frames, episode after episode.
        offsets: ``(E + 1,)`` first row of each episode, and the number of rows.
        config: lag and goal distribution.
        batch_size: pairs per batch.
        seed: batches are a function of ``(seed, step)``.
    """

    def __init__(
        self, embeddings: Tensor, offsets: Tensor, config: CriticConfig, batch_size: int, seed: int
    ) -> None:
        self.embeddings = embeddings
        self.config = config
        self.batch_size = batch_size
        self.seed = seed
        lengths = offsets.diff()
        episode = torch.repeat_interleave(torch.arange(len(lengths)), lengths.cpu())
        self.last_row = (offsets[1:].cpu() - 1)[episode]
        rows = torch.arange(len(episode))
        self.starts = rows[rows < self.last_row]

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``: start, ahead, goal ``(M, D)``, lag ``(M,)`` [steps], bootstrap ``(M,)`` 0 or 1."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        num, config = self.batch_size, self.config
        start = self.starts[torch.randint(len(self.starts), (num,), generator=generator)]
        room = self.last_row[start] - start  # steps left in the episode, >= 1
        lag = torch.randint(1, config.max_lag + 1, (num,), generator=generator).minimum(room)
        uniform = torch.rand(num, generator=generator).clamp(1e-7, 1 - 1e-7)
        offset = (uniform.log() / math.log1p(-1 / (config.hindsight_mean + 1e-6))).ceil().long().clamp(min=1)
        goal_hindsight = start + offset.minimum(room)
        goal_random = torch.randint(len(self.last_row), (num,), generator=generator)
        is_hindsight = torch.rand(num, generator=generator) < config.hindsight
        goal = torch.where(is_hindsight, goal_hindsight, goal_random)
        ahead_by = goal - start
        is_passed = is_hindsight & (ahead_by <= lag)  # the goal lies within the lag: its offset is the target
        lag = torch.where(is_passed, ahead_by, lag)
        device = self.embeddings.device
        return {
            "start": self.embeddings[start.to(device)],
            "ahead": self.embeddings[(start + lag).to(device)],
            "goal": self.embeddings[goal.to(device)],
            "lag": lag.float().to(device),
            "bootstrap": (~is_passed).float().to(device),
        }


def save_critic(path: Path | str, critic: Critic, extra: Mapping[str, Any] | None = None) -> None:
    """Write the critic as a checkpoint folder."""
    config = {
        "kind": "critic",
        "critic": dataclasses.asdict(critic.config),
        "embedding_shape": list(critic.embedding_shape),
        "extra": dict(extra or {}),
    }
    if critic.readout is not None:
        config["reads"] = readout_sizes(critic.readout)
    save_folder(path, config, state_tensors(critic))


def load_critic(path: Path | str, device: torch.device | str = "cpu") -> Critic:
    """Load a critic written by :func:`save_critic`.

    Raises:
        CheckpointError: the folder is not a usable critic checkpoint.
    """
    config, tensors = load_folder(path, "critic")
    try:
        readout = make_readout(config["reads"]) if "reads" in config else None
        critic = Critic(
            config["embedding_shape"], CriticConfig(**{"sharpness": 1.0, **config["critic"]}), readout=readout
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json must describe a critic, got {path}: {error}") from error
    load_state(critic, tensors, path)
    return critic.to(device).eval()
