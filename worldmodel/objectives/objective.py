"""The objective of a JEPA on windows of trajectories: encode, roll out, compute the named terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.distributed import gather_outputs, gather_rows, rank_and_world_size
from worldmodel.jepa import JEPA, require_known, require_known_arguments
from worldmodel.memory import ShortTermMemory
from worldmodel.objectives.contrastive import ActionContrast, InfoNCE
from worldmodel.objectives.distillation import BarlowTwins, CosinePrediction, SwAV
from worldmodel.objectives.outputs import JEPAOutputs, Term, TermSizes
from worldmodel.objectives.readouts import InverseDynamics, LatentKL, Reconstruction, Supervised
from worldmodel.objectives.terms import (
    Covariance,
    Prediction,
    SIGReg,
    TemporalSimilarity,
    TemporalStd,
    Variance,
)

TERMS: dict[str, type[Term]] = {
    "prediction": Prediction,
    "variance": Variance,
    "covariance": Covariance,
    "temporal_similarity": TemporalSimilarity,
    "temporal_std": TemporalStd,
    "inverse_dynamics": InverseDynamics,
    "sigreg": SIGReg,
    "infonce": InfoNCE,
    "action_contrast": ActionContrast,
    "barlow_twins": BarlowTwins,
    "cosine_prediction": CosinePrediction,
    "swav": SwAV,
    "reconstruction": Reconstruction,
    "latent_kl": LatentKL,
    "supervised": Supervised,
}
STARTS = ("first", "every")


def term_kind(name: str) -> str:
    """Return the key in :data:`TERMS` of a term's name: ``"infonce"`` of ``"infonce:within"``."""
    return name.partition(":")[0]


class JEPAObjective(nn.Module):
    """A JEPA and the terms it is trained on.

    Args:
        model: the JEPA; its parameters are parameters of this module.
        weights: weight per term; a term of weight 0 is computed and logged, but does not train. ``"KIND:LABEL"`` names
            a second term of a kind, e.g. ``"infonce:within"``.
        rollout_steps: ``H``, steps predicted open loop.
        starts: roll out from the ``first`` frame of a window, or from ``every`` frame that leaves room for ``H`` steps.
        term_args: keyword arguments per term. On a vector embedding every term also takes ``features``, two shares such
            as ``[0, 0.75]``: it then sees that part of the features only.
        label_dims: values per label that batches hold beside observations and actions.
        train_encoder: false keeps the encoder as it was drawn (the random-encoder baseline).
        detach_predictions: the predictor learns from the embeddings, but its errors do not reach the encoder.
        seed: seed of the initial weights of terms that have any, and of their randomness per step.

    Attributes:
        label_keys: keys that batches must hold for the terms.

    Raises:
        ValueError: unknown term or argument, or a window shorter than the rollout.
    """

    def __init__(
        self,
        model: JEPA,
        weights: Mapping[str, float],
        *,
        rollout_steps: int,
        starts: str = "first",
        term_args: Mapping[str, Mapping[str, Any]] | None = None,
        label_dims: Mapping[str, int] | None = None,
        train_encoder: bool = True,
        detach_predictions: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if rollout_steps < 1:
            raise ValueError(f"rollout_steps must be >= 1, got {rollout_steps}")
        require_known("starts", starts, STARTS)
        term_args = term_args or {}
        for name in term_args:
            require_known("objective term with arguments", name, weights)
        self.model = model
        self.rollout_steps = rollout_steps
        self.starts = starts
        self.detach_predictions = detach_predictions
        self.seed = seed
        self.weights = dict(weights)
        if not train_encoder:
            model.encoder.requires_grad_(False)
            model.encoder_norm.requires_grad_(False)
        self.slices: dict[str, tuple[int, int]] = {}
        terms = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name in weights:
                terms[name] = self._build(name, dict(term_args.get(name, {})), label_dims or {})
        self.terms = nn.ModuleDict(terms)
        self.num_shuffled = max(term.num_shuffled for term in terms.values()) if terms else 0
        self.label_keys = tuple(dict.fromkeys(key for term in terms.values() for key in term.label_keys))
        for key in self.label_keys:
            for statistic, value in (("mean", 0.0), ("std", 1.0)):
                self.register_buffer(f"{key}_{statistic}", torch.full(((label_dims or {})[key],), value))
        if model.config.latent_dim and self.num_shuffled:
            raise ValueError(
                "action_contrast must have a model with latent_dim 0, got one with a latent variable"
            )
        if model.config.latent_dim and "latent_kl" not in terms:
            raise ValueError(
                "an objective of a model with a latent variable must have the term latent_kl, "
                f"got {', '.join(terms)}"
            )

    def _build(self, name: str, arguments: dict[str, Any], label_dims: Mapping[str, int]) -> Term:
        kind, config = term_kind(name), self.model.config
        require_known("objective term", kind, TERMS)
        if "." in name:
            raise ValueError(f"the label of an objective term must not have a dot, got {name!r}")
        if kind == "latent_kl" and (name != kind or "features" in arguments):
            raise ValueError(f"latent_kl must be one term over all features, got {name!r} with {arguments}")
        shape = self.model.embedding_shape
        if "features" in arguments:
            shares = arguments.pop("features")
            if len(shape) != 1:
                raise ValueError(
                    f"objective term {name} with features must have a vector embedding, got {shape}"
                )
            if not (
                isinstance(shares, list | tuple) and len(shares) == 2 and 0 <= shares[0] < shares[1] <= 1
            ):
                raise ValueError(
                    f"features of objective term {name} must be two ascending shares in [0, 1], got {shares}"
                )
            first, end = (round(share * shape[0]) for share in shares)
            if first == end:
                raise ValueError(
                    f"features of objective term {name} must hold a feature, got {list(shares)} of {shape}"
                )
            self.slices[name], shape = (first, end), (end - first,)
        require_known_arguments(f"objective term {name}", TERMS[kind], arguments)
        if kind == "latent_kl" and config.latent_dim != arguments.setdefault("latent_dim", config.latent_dim):
            raise ValueError(
                f"latent_dim of latent_kl must be the model's {config.latent_dim}, got {arguments['latent_dim']}"
            )
        if kind == "latent_kl" and config.latent_dim < 1:
            raise ValueError("latent_kl must be given a model with latent_dim >= 1, got 0")
        return TERMS[kind](TermSizes(shape, config.action_dim, config.observation, label_dims), **arguments)

    def set_label_statistics(self, key: str, mean: Tensor, std: Tensor) -> None:
        """Set what labels are standardised with; a std of 0 counts as 1."""
        self.get_buffer(f"{key}_mean").copy_(mean)
        self.get_buffer(f"{key}_std").copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:
        """Compute the unweighted terms on windows.

        Args:
            batch: observations ``(B, T, *O)`` and ``"action" (B, T, A)``; ``action[:, t]`` leads from frame ``t`` to
                ``t + 1``, the last one is not read. Labels of the terms are further keys.
            step: training step, which seeds the randomness of the terms.
        """
        outputs = gather_outputs(self.outputs(batch, seed=1_000_003 * self.seed + step))
        outputs = replace(  # statistics in full precision, whatever the networks ran in
            outputs,
            embeddings=outputs.embeddings.float(),
            targets=outputs.targets.float(),
            predictions=outputs.predictions.float(),
            shuffled=None if outputs.shuffled is None else outputs.shuffled.float(),
            latent_kl=None if outputs.latent_kl is None else outputs.latent_kl.float(),
            observations={key: gather_rows(value).float() for key, value in outputs.observations.items()},
            labels={key: gather_rows(value).float() for key, value in outputs.labels.items()},
        )
        with torch.autocast(self.model.device.type, enabled=False):
            return {name: term(self._seen_by(name, outputs)) for name, term in self.terms.items()}

    def _seen_by(self, name: str, outputs: JEPAOutputs) -> JEPAOutputs:
        """Restrict the features to the slice that a term was given, if any."""
        if name not in self.slices:
            return outputs
        part = slice(*self.slices[name])
        return replace(
            outputs,
            embeddings=outputs.embeddings[..., part],
            targets=outputs.targets[..., part],
            predictions=outputs.predictions[..., part],
            shuffled=None if outputs.shuffled is None else outputs.shuffled[..., part],
        )

    def outputs(self, batch: Mapping[str, Tensor], seed: int = 0) -> JEPAOutputs:
        """Encode a batch of windows and roll the model out along its actions."""
        model = self.model
        obs = {key: batch[key] for key in model.observation_keys}
        actions = batch["action"][:, :-1]
        embeddings = model.encode(obs)
        num_steps = actions.shape[1]
        if self.rollout_steps > num_steps:
            raise ValueError(
                f"a window must have at least rollout_steps + 1 = {self.rollout_steps + 1} frames, "
                f"got {num_steps + 1}"
            )
        latent_kl = shuffled = None
        seen = embeddings.detach() if self.detach_predictions else embeddings  # by the predictor
        if model.config.latent_dim:
            predictions, latent_kl = self._inferred_predictions(seen, actions, seed)
        else:
            every = self._predictions(seen, self._action_sets(actions, seed))
            predictions = every[:, :, 0]
            shuffled = every[:, :, 1:] if self.num_shuffled else None
        return JEPAOutputs(
            embeddings=embeddings,
            targets=model.encode_target(obs, seen),
            predictions=predictions,
            actions=actions / model.get_buffer("action_scale"),
            seed=seed,
            shuffled=shuffled,
            latent_kl=latent_kl,
            observations=self._observations(obs),
            labels=self._labels(batch),
        )

    def _observations(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the normalised observations that the terms read."""
        needed = {key for term in self.terms.values() for key in term.observation_keys}  # type: ignore[union-attr]
        if not needed:
            return {}
        normalised = self.model.normalizer(obs)
        return {key: normalised[key] for key in sorted(needed)}

    def _labels(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the standardised labels that the terms read, ``(B, T, K)`` each."""
        labels = {}
        for key in self.label_keys:
            if key not in batch:
                raise ValueError(f"a batch must hold the label {key!r} of its terms, got {', '.join(batch)}")
            mean, std = self.get_buffer(f"{key}_mean"), self.get_buffer(f"{key}_std")
            values = batch[key].float()
            labels[key] = (values.reshape(*values.shape[:2], -1) - mean) / std
        return labels

    def _action_sets(self, actions: Tensor, seed: int) -> Tensor:
        """Return each window's actions and those of ``N`` other windows of the joint batch, ``(B, 1 + N, T - 1, A)``."""
        if self.num_shuffled == 0:
            return actions[:, None]
        rank, world_size = rank_and_world_size()
        every = gather_rows(actions)
        num = len(every)
        if num <= self.num_shuffled:
            raise ValueError(f"num_shuffled must be < the windows of a batch, {num}, got {self.num_shuffled}")
        shifts = (
            torch.randperm(num - 1, generator=torch.Generator().manual_seed(seed))[: self.num_shuffled] + 1
        )
        own = torch.arange(num // world_size) + rank * (num // world_size)
        rows = (own[:, None] + shifts).remainder(num).to(actions.device)
        return torch.cat([actions[:, None], every[rows]], dim=1)

    def _predictions(self, embeddings: Tensor, actions: Tensor) -> Tensor:
        """Roll out from the chosen starts under ``M`` action sequences ``(B, M, T - 1, A)``: ``(B, S, M, H, *D)``."""
        batch, num_sets = actions.shape[:2]
        flat_start, memory = self._start_points(embeddings, actions[:, 0])
        starts = len(flat_start) // batch
        windows = actions.unfold(2, self.rollout_steps, 1)[:, :, :starts].movedim(-1, 3)  # (B, M, S, H, A)
        flat = windows.transpose(1, 2).flatten(0, 2)  # (B * S * M, H, A)
        if num_sets > 1:
            flat_start = flat_start.repeat_interleave(num_sets, dim=0)
            memory = None if memory is None else memory.repeat(num_sets)
        return self.model.rollout(flat_start, flat, memory=memory).unflatten(0, (batch, starts, num_sets))

    def _start_points(self, embeddings: Tensor, actions: Tensor) -> tuple[Tensor, ShortTermMemory | None]:
        """Return the embeddings ``(B * S, *D)`` that rollouts begin at, and the memory before each."""
        if self.starts == "first":
            return embeddings[:, 0], None
        starts = actions.shape[1] - self.rollout_steps + 1
        memory = self._memories(embeddings, actions, starts) if self.model.predictor.context else None
        return embeddings[:, :starts].flatten(0, 1), memory

    def _inferred_predictions(self, embeddings: Tensor, actions: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Roll out with latents drawn from the posterior, ``(B, S, H, *D)`` and divergences ``(B, S, H)``."""
        model, horizon, batch = self.model, self.rollout_steps, len(actions)
        term = self.terms["latent_kl"]
        assert isinstance(term, LatentKL)
        generator = torch.Generator().manual_seed(seed)
        rank, world_size = rank_and_world_size()
        state, memory = self._start_points(embeddings, actions)
        starts = len(state) // batch
        steps = actions.unfold(1, horizon, 1)[:, :starts].movedim(-1, 2).flatten(0, 1)  # (B * S, H, A)
        following = embeddings[:, 1:].unfold(1, horizon, 1)[:, :starts].movedim(-1, 2).flatten(0, 1)
        if memory is None and model.predictor.context:
            memory = model.empty_memory(len(state))
        scale = model.get_buffer("action_scale")
        predictions, divergences = [], []
        for k in range(horizon):
            before, action = state, steps[:, k]
            noise = torch.randn(world_size * len(before), model.config.latent_dim, generator=generator)
            noise = noise[rank * len(before) : (rank + 1) * len(before)].to(before)  # of the joint batch
            latent, divergence = term.latent.infer(
                before.flatten(1), action / scale, following[:, k].flatten(1), noise
            )
            state = model.predict(before, action, latent, memory)
            memory = None if memory is None else model.remember(memory, before, action)
            predictions.append(state)
            divergences.append(divergence)
        shape = (batch, starts)
        return torch.stack(predictions, 1).unflatten(0, shape), torch.stack(divergences, 1).unflatten(
            0, shape
        )

    def _memories(self, embeddings: Tensor, actions: Tensor, starts: int) -> ShortTermMemory:
        """Return the memory before each start frame, rows ``(B * S)``."""
        memory = self.model.empty_memory(len(embeddings))
        steps = []
        for t in range(starts):
            steps.append(memory)
            memory = self.model.remember(memory, embeddings[:, t], actions[:, t])
        return ShortTermMemory(
            torch.stack([m.embeddings for m in steps], dim=1).flatten(0, 1),
            torch.stack([m.actions for m in steps], dim=1).flatten(0, 1),
            torch.stack([m.valid for m in steps], dim=1).flatten(0, 1),
        )
