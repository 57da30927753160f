"""Checkpoints of Mode-1 policies: the folder format of :mod:`worldmodel.checkpoint` with a policy's architecture."""

from __future__ import annotations

from pathlib import Path

import torch

from planners.policy import GoalPolicy
from worldmodel.checkpoint import CheckpointError, load_folder, load_state, save_folder, state_tensors

POLICIES = ("imagination", "dagger", "inverse")  # the recipe's own, and what `distill` adds


def policy_folder(run: Path, name: str) -> Path:
    """Return where a run keeps the policy ``name``."""
    return run / ("policy" if name == "imagination" else f"policy-{name}")


def save_policy(path: Path, policy: GoalPolicy) -> None:
    """Write the policy as a checkpoint folder."""
    config = {
        "kind": "policy",
        "policy": {
            "embedding_shape": list(policy.embedding_shape),
            "low": list(policy.low),
            "high": list(policy.high),
            "max_norm": policy.max_norm,
            "hidden_dims": list(policy.hidden_dims),
            "conv_channels": list(policy.conv_channels),
            "noise": policy.noise,
        },
    }
    save_folder(path, config, state_tensors(policy))


def load_policy(path: Path, device: torch.device | str = "cpu") -> GoalPolicy:
    """Load a policy written by :func:`save_policy`.

    Raises:
        CheckpointError: the folder is not a usable policy checkpoint.
    """
    config, tensors = load_folder(path, "policy")
    try:
        policy = GoalPolicy(**config["policy"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json must describe a policy, got {path}: {error}") from error
    load_state(policy, tensors, path)
    return policy.to(device).eval()
