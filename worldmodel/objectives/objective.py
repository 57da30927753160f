"""The objective of a JEPA on windows of trajectories: encode, roll out, compute the named terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.distributed import gather_outputs
from worldmodel.jepa import JEPA, require_known, require_known_arguments
from worldmodel.memory import ShortTermMemory
from worldmodel.objectives.terms import (
    Covariance,
    InverseDynamics,
    JEPAOutputs,
    Prediction,
    SIGReg,
    TemporalSimilarity,
    TemporalStd,
    Term,
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
}
STARTS = ("first", "every")


class JEPAObjective(nn.Module):
    """A JEPA and the terms it is trained on.

    Args:
        model: the JEPA; its parameters are parameters of this module.
        weights: weight per term name; a term of weight 0 is computed and logged, but does not train.
        rollout_steps: ``H``, steps predicted open loop.
        starts: roll out from the ``first`` frame of a window, or from ``every`` frame that leaves room for ``H`` steps.
        term_args: keyword arguments per term name.
        seed: seed of the initial weights of terms that have any, and of their randomness per step.

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
        self.seed = seed
        self.weights = dict(weights)
        terms = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name in weights:
                require_known("objective term", name, TERMS)
                arguments = term_args.get(name, {})
                require_known_arguments(f"objective term {name}", TERMS[name], arguments)
                terms[name] = TERMS[name](model.embedding_shape, model.config.action_dim, **arguments)
        self.terms = nn.ModuleDict(terms)

    def forward(self, batch: Mapping[str, Tensor], step: int = 0) -> dict[str, Tensor]:
        """Compute the unweighted terms on windows.

        Args:
            batch: observations ``(B, T, *O)`` and ``"action" (B, T, A)``; ``action[:, t]`` leads from frame ``t`` to
                ``t + 1``, the last one is not read.
            step: training step, which seeds the randomness of the terms.
        """
        outputs = gather_outputs(self.outputs(batch, seed=1_000_003 * self.seed + step))
        outputs = replace(  # statistics in full precision, whatever the networks ran in
            outputs,
            embeddings=outputs.embeddings.float(),
            targets=outputs.targets.float(),
            predictions=outputs.predictions.float(),
        )
        with torch.autocast(self.model.device.type, enabled=False):
            return {name: term(outputs) for name, term in self.terms.items()}

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
        return JEPAOutputs(
            embeddings=embeddings,
            targets=model.encode_target(obs, embeddings),
            predictions=self._predictions(embeddings, actions),
            actions=actions / model.get_buffer("action_scale"),
            seed=seed,
        )

    def _predictions(self, embeddings: Tensor, actions: Tensor) -> Tensor:
        """Roll out from the chosen starts, ``(B, S, H, *D)``."""
        horizon = self.rollout_steps
        if self.starts == "first":
            return self.model.rollout(embeddings[:, 0], actions[:, :horizon])[:, None]
        windows = actions.unfold(1, horizon, 1).movedim(-1, 2)  # (B, S, H, A)
        batch, starts = windows.shape[:2]
        memory = self._memories(embeddings, actions, starts) if self.model.predictor.context else None
        flat = self.model.rollout(embeddings[:, :starts].flatten(0, 1), windows.flatten(0, 1), memory=memory)
        return flat.unflatten(0, (batch, starts))

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
