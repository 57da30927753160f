"""Checkpoints of Mode-1 policies: the folder format of :mod:`worldmodel.checkpoint` with a policy's architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from planners.policy import GoalPolicy
from worldmodel.checkpoint import CheckpointError, load_folder, load_state, save_folder, state_tensors
from worldmodel.readout import SeenPair, make_readout, readout_sizes
from worldmodel.value_map import Surroundings, ValueMap

POLICIES = (
    "imagination",
    "dagger",
    "inverse",
)  # by the recipe the first, or the second; `distill` adds what is missing


def policy_folder(run: Path, name: str) -> Path:
    """Return where a run keeps the policy ``name``."""
    return run / ("policy" if name == "imagination" else f"policy-{name}")


def make_policy(
    embedding_shape: Sequence[int],
    bounds: Mapping[str, Any],
    architecture: Mapping[str, Any],
    reader: nn.Module | None = None,
) -> GoalPolicy:
    """Build an untrained policy.

    Args:
        embedding_shape: of the world model.
        bounds: of actions: ``low``, ``high`` and ``max_norm``.
        architecture: other arguments of :class:`planners.policy.GoalPolicy`.
        reader: what it reads in the place of embedding and goal, see :class:`planners.policy.GoalPolicy`.
    """
    return GoalPolicy(
        embedding_shape,
        bounds["low"],
        bounds["high"],
        bounds["max_norm"],
        **architecture,
        reader=reader,
    )


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
    if isinstance(policy.reader, Surroundings):
        settings = ("embedding_shape", "channels", "hidden_channels", "num_iterations", "sharpness")
        config["value_map"] = {name: getattr(policy.reader.value_map, name) for name in settings}
    if isinstance(policy.reader, SeenPair):
        config["readout"] = readout_sizes(policy.reader.readout)
    save_folder(path, config, state_tensors(policy))


def load_policy(path: Path, device: torch.device | str = "cpu") -> GoalPolicy:
    """Load a policy written by :func:`save_policy`.

    Raises:
        CheckpointError: the folder is not a usable policy checkpoint.
    """
    config, tensors = load_folder(path, "policy")
    try:
        reader: nn.Module | None = None
        if "value_map" in config:
            reader = Surroundings(ValueMap(**{"sharpness": 1.0, **config["value_map"]}))
        elif "readout" in config:
            reader = SeenPair(make_readout(config["readout"]))
        architecture = {
            name: value
            for name, value in config["policy"].items()
            if name not in ("embedding_shape", "low", "high", "max_norm")
        }
        policy = make_policy(config["policy"]["embedding_shape"], config["policy"], architecture, reader)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json must describe a policy, got {path}: {error}") from error
    load_state(policy, tensors, path)
    return policy.to(device).eval()
