"""The action-conditioned joint-embedding predictive architecture (LeCun 2022, section 4.4).

``s = Enc(x)``, ``s' = Pred(s, a, z)``; prediction happens in embedding space only. Embeddings and predictions pass
through the same normalisation, so that a rollout stays on the scale of what the encoder returns. The target branch is
shared (gradients flow through both sides), stop-gradient, or an exponential moving average of the encoder.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.encoders import (
    ConvEncoder,
    Encoder,
    FusedEncoder,
    ImpalaEncoder,
    MLPEncoder,
    PatchEncoder,
    PixelEncoder,
)
from worldmodel.memory import ShortTermMemory
from worldmodel.predictors import (
    ConvPredictor,
    GRUPredictor,
    Predictor,
    ResidualMLPPredictor,
    TransformerPredictor,
)

PIXEL_ENCODERS: dict[str, Callable[..., PixelEncoder]] = {
    "patch": PatchEncoder,
    "conv": ConvEncoder,
    "impala": ImpalaEncoder,
}
PREDICTORS: dict[str, type[Predictor]] = {
    "residual_mlp": ResidualMLPPredictor,
    "gru": GRUPredictor,
    "conv": ConvPredictor,
    "transformer": TransformerPredictor,
}
TARGETS = ("shared", "stop_gradient", "ema")


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise ``ValueError`` naming the nearest known word when ``name`` is not one of ``known``."""
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{kind} must be one of {', '.join(sorted(known))}, got {name!r}{hint}")


def require_known_arguments(kind: str, function: Any, arguments: Iterable[str]) -> None:  # noqa: ANN401
    """Raise ``ValueError`` when ``function`` does not take one of the keyword ``arguments``."""
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in arguments:
        require_known(f"argument of {kind}", name, known)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a :class:`JEPA`; what ``config.json`` of a checkpoint holds.

    Pixel encoders are ``patch``, ``conv`` and ``impala``; with both pixels and proprioception among the observations
    they become the pixel half of a fused encoder. ``mlp`` reads the only observation there is.
    """

    observation: dict[str, tuple[int, ...]]  # keys the encoder reads, with their shapes
    action_dim: int  # A
    encoder: str = "patch"
    encoder_args: dict[str, Any] = field(default_factory=dict)
    embedding_dim: int = 32  # D, or channels of a feature map
    predictor: str = "residual_mlp"
    predictor_args: dict[str, Any] = field(default_factory=dict)
    latent_dim: int = 0  # Z, 0: deterministic
    target: str = "shared"  # shared, stop_gradient or ema
    ema_momentum: float = 0.99  # share of the old target weights kept per step
    norm: bool = True  # LayerNorm on embeddings and predictions
    tied_norm: bool = True  # one LayerNorm for both; a predictor refitted on frozen embeddings has its own

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation", {k: tuple(v) for k, v in self.observation.items()})
        require_known("encoder", self.encoder, [*PIXEL_ENCODERS, "mlp"])
        require_known("predictor", self.predictor, PREDICTORS)
        require_known("target", self.target, TARGETS)
        if not self.observation:
            raise ValueError("observation must name at least one key, got {}")
        for name, least in (("action_dim", 1), ("embedding_dim", 1), ("latent_dim", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not 0 <= self.ema_momentum <= 1:
            raise ValueError(f"ema_momentum must be in [0, 1], got {self.ema_momentum}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build a config from parsed JSON; an unknown key is an error."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            require_known("model configuration key", name, names)
        return cls(**values)


class Normalizer(nn.Module):
    """Standardise observations with statistics that travel in the checkpoint.

    Args:
        observation: shape per key; images are standardised per channel, other arrays per element.
    """

    def __init__(self, observation: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.keys = tuple(observation)
        for key, shape in observation.items():
            stats_shape = (shape[0], 1, 1) if len(shape) == 3 else tuple(shape)
            self.register_buffer(f"{key}_mean", torch.zeros(stats_shape))
            self.register_buffer(f"{key}_std", torch.ones(stats_shape))

    def set(self, key: str, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Set the statistics of ``key``; a std of 0 (a constant channel) counts as 1."""
        buffer = self.get_buffer(f"{key}_mean")
        mean = torch.as_tensor(mean, dtype=torch.float32).reshape(buffer.shape)
        std = torch.as_tensor(std, dtype=torch.float32).reshape(buffer.shape)
        buffer.copy_(mean)
        self.get_buffer(f"{key}_std").copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the standardised float observations, same shapes."""
        return {
            key: (obs[key].float() - self.get_buffer(f"{key}_mean")) / self.get_buffer(f"{key}_std")
            for key in self.keys
        }


class EmbeddingNorm(nn.Module):
    """LayerNorm over the feature axis of an embedding: ``D`` of a vector, ``C`` of a map.

    Args:
        embedding_shape: ``(D,)`` or ``(C, h, w)``.
    """

    def __init__(self, embedding_shape: Sequence[int]) -> None:
        super().__init__()
        self.is_map = len(embedding_shape) == 3
        self.layer = nn.LayerNorm(embedding_shape[0])

    def forward(self, embedding: Tensor) -> Tensor:
        """Normalise ``(..., *D)``."""
        if self.is_map:
            return self.layer(embedding.movedim(-3, -1)).movedim(-1, -3)
        return self.layer(embedding)


def build_encoder(config: ModelConfig) -> Encoder:
    """Build the encoder that ``config`` names, fused with proprioception when both are observed."""
    shapes = config.observation
    if config.encoder == "mlp":
        if len(shapes) != 1:
            raise ValueError(f"observation must have one key for an mlp encoder, got {', '.join(shapes)}")
        ((key, shape),) = shapes.items()
        require_known_arguments("encoder mlp", MLPEncoder, config.encoder_args)
        return MLPEncoder(shape, config.embedding_dim, key=key, **config.encoder_args)
    images = [key for key, shape in shapes.items() if len(shape) == 3]
    vectors = [key for key, shape in shapes.items() if len(shape) == 1]
    if len(images) != 1 or len(vectors) > 1 or len(images) + len(vectors) != len(shapes):
        raise ValueError(f"observation must be one image and at most one vector, got {shapes}")
    kind = PIXEL_ENCODERS[config.encoder]
    arguments = dict(config.encoder_args)
    fusion = {"proprio_dim": arguments.pop("proprio_dim")} if vectors and "proprio_dim" in arguments else {}
    require_known_arguments(f"encoder {config.encoder}", kind, arguments)
    pixel_encoder = kind(shapes[images[0]], config.embedding_dim, key=images[0], **arguments)
    if not vectors:
        return pixel_encoder
    return FusedEncoder(pixel_encoder, shapes[vectors[0]], key=vectors[0], **fusion)


class JEPA(nn.Module):
    """Encoder, predictor, normalisation and target branch: the world model of the agent.

    Args:
        config: the architecture.

    Weights are drawn from torch's global generator; fork and seed it around the constructor
    (:func:`build_jepa` does).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalizer = Normalizer(config.observation)
        self.register_buffer("action_scale", torch.ones(config.action_dim))
        self.encoder = build_encoder(config)
        self.embedding_shape = self.encoder.embedding_shape
        kind = PREDICTORS[config.predictor]
        require_known_arguments(f"predictor {config.predictor}", kind, config.predictor_args)
        self.predictor = kind(
            self.embedding_shape, config.action_dim, config.latent_dim, **config.predictor_args
        )
        self.encoder_norm: nn.Module = EmbeddingNorm(self.embedding_shape) if config.norm else nn.Identity()
        self.predictor_norm: nn.Module = (
            self.encoder_norm if config.tied_norm else copy.deepcopy(self.encoder_norm)
        )
        self.target_encoder: nn.Module | None = None
        if config.target == "ema":
            self.target_encoder = nn.ModuleList(
                [copy.deepcopy(self.encoder), copy.deepcopy(self.encoder_norm)]
            )
            self.target_encoder.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.get_buffer("action_scale").device

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """Observation keys that :meth:`encode` reads."""
        return tuple(self.config.observation)

    def encode(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Encode observations ``(..., *O)`` (raw, e.g. uint8 pixels) to embeddings ``(..., *D)``.

        Raises:
            ValueError: an observation is missing or has another shape than the model was built for.
        """
        self._check_obs(obs)
        return self.encoder_norm(self.encoder(self.normalizer(obs)))

    def encode_target(self, obs: Mapping[str, Tensor], online: Tensor) -> Tensor:
        """Return the targets of the predictions, ``(..., *D)``, given the ``online`` embeddings of the same frames."""
        if self.config.target == "shared":
            return online
        if self.config.target == "stop_gradient":
            return online.detach()
        assert isinstance(self.target_encoder, nn.ModuleList)
        encoder, norm = self.target_encoder
        with torch.no_grad():
            return norm(encoder(self.normalizer(obs)))

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target branch one step of its moving average; nothing to do for the other kinds."""
        if self.target_encoder is None:
            return
        online = [*self.encoder.parameters(), *self.encoder_norm.parameters()]
        for average, weight in zip(self.target_encoder.parameters(), online, strict=True):
            average.lerp_(weight, 1 - self.config.ema_momentum)
        online_buffers = [*self.encoder.buffers(), *self.encoder_norm.buffers()]
        for target, source in zip(self.target_encoder.buffers(), online_buffers, strict=True):
            target.copy_(source)

    def predict(
        self,
        embedding: Tensor,
        action: Tensor,
        latent: Tensor | None = None,
        memory: ShortTermMemory | None = None,
    ) -> Tensor:
        """Predict the embedding after ``action``.

        Args:
            embedding: ``(B, *D)``.
            action: ``(B, A)`` in the environment's units.
            latent: ``(B, Z)``, or None for no latent variable.
            memory: the steps before; read by predictors with a context.

        Returns:
            ``(B, *D)``.
        """
        scaled = action / self.get_buffer("action_scale")
        return self.predictor_norm(self.predictor(embedding, scaled, latent, memory))

    def rollout(
        self,
        embedding: Tensor,
        actions: Tensor,
        latents: Tensor | None = None,
        memory: ShortTermMemory | None = None,
    ) -> Tensor:
        """Imagine the embeddings along a plan.

        Args:
            embedding: ``(B, *D)`` at the start.
            actions: ``(B, H, A)`` in the environment's units.
            latents: ``(B, H, Z)`` or None.
            memory: the steps before the start.

        Returns:
            ``(B, H, *D)``; entry ``k`` is the embedding after ``actions[:, k]``.
        """
        if self.predictor.context and memory is None:
            memory = self.empty_memory(len(embedding))
        scale = self.get_buffer("action_scale")
        predictions = []
        for k in range(actions.shape[1]):
            action = actions[:, k]
            nxt = self.predict(embedding, action, None if latents is None else latents[:, k], memory)
            if memory is not None and self.predictor.context:
                memory = memory.push(embedding, action / scale)
            embedding = nxt
            predictions.append(nxt)
        return torch.stack(predictions, dim=1)

    def empty_memory(self, batch: int) -> ShortTermMemory:
        """Return a short-term memory of the predictor's length that holds nothing; its actions are scaled ones."""
        return ShortTermMemory.empty(
            batch, self.predictor.context, self.embedding_shape, self.config.action_dim, self.device
        )

    def remember(self, memory: ShortTermMemory, embedding: Tensor, action: Tensor) -> ShortTermMemory:
        """Return ``memory`` after ``action (B, A)`` (environment's units) was executed at ``embedding (B, *D)``."""
        return memory.push(embedding, action / self.get_buffer("action_scale"))

    def untie_norm(self) -> None:
        """Give the predictor its own copy of the LayerNorm, so that it can be refitted with the encoder frozen."""
        self.predictor_norm = copy.deepcopy(self.encoder_norm)
        self.config = dataclasses.replace(self.config, tied_norm=False)

    def _check_obs(self, obs: Mapping[str, Tensor]) -> None:
        for key, shape in self.config.observation.items():
            if key not in obs:
                raise ValueError(f"observation must have the key {key!r}, got {', '.join(obs) or 'none'}")
            if tuple(obs[key].shape[-len(shape) :]) != shape:
                raise ValueError(
                    f"observation {key!r} must end in shape {shape}, got {tuple(obs[key].shape)}"
                )


def build_jepa(config: ModelConfig, seed: int) -> JEPA:
    """Build a JEPA whose initial weights are a function of ``seed``; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return JEPA(config)
