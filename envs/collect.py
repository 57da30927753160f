"""Collecting trajectories: all worlds advance together, images are rendered afterwards in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from envs.policies import Policy
from envs.simulator import Simulator, clip_action
from envs.suggestions import did_you_mean
from envs.variation import Variation

KEYS = ("pixels", "proprio", "state")


def collect(
    sim: Simulator,
    policy: Policy,
    num_episodes: int,
    num_steps: int,
    generator: torch.Generator,
    *,
    split: str = "train",
    keys: Sequence[str] = KEYS,
    variation: Variation | None = None,
) -> dict[str, Any]:
    """Record B = ``num_episodes`` trajectories of T = ``num_steps`` actions.

    Args:
        sim: Where.
        policy: Who acts.
        num_episodes: B.
        num_steps: T.
        generator: Source of all randomness.
        split: Whose tasks: "train" or "eval".
        keys: Which of "pixels", "proprio" and "state" to return; states alone suffice to render later.
        variation: Factors of variation, see ``sim.initial``.

    Returns:
        Tensors by name: each of ``keys`` as ``(B, T + 1, ...)``; ``action`` float32 ``(B, T + 1, A)``, where
        row t leads from observation t to t + 1 and the last row is zero; ``action_valid`` bool ``(B, T +
        1)``, false in the last row. ``factors`` is a dict of per-episode tensors ``(B, ...)`` that includes
        ``layout_id``.

    Raises:
        ValueError: An unknown key, fewer than one episode or step.
    """
    for key in keys:
        if key not in KEYS:
            raise ValueError(f"a key must be one of {list(KEYS)}, got {key!r}{did_you_mean(key, KEYS)}")
    if num_episodes < 1 or num_steps < 1:
        raise ValueError(f"num_episodes and num_steps must be at least 1, got {num_episodes} and {num_steps}")

    state = sim.initial(num_episodes, generator, variation, split=split)
    factors = {**sim.factors(state), "layout_id": sim.layout_id(state)}
    vectors = torch.empty((num_episodes, num_steps + 1, sim.state_dim), device=sim.device)
    action = torch.zeros((num_episodes, num_steps + 1, sim.action_dim), device=sim.device)
    policy.reset(sim, state, generator)
    vectors[:, 0] = sim.state_vector(state)
    for step in range(num_steps):
        action[:, step] = clip_action(sim, policy.act(sim, state, generator))
        state = sim.transition(state, action[:, step])
        vectors[:, step + 1] = sim.state_vector(state)

    every = sim.state_from_vector(vectors.flatten(0, 1))  # (B * (T + 1), ...)
    views = {"pixels": sim.pixels, "proprio": sim.proprio}
    data: dict[str, Any] = {
        key: vectors if key == "state" else views[key](every).unflatten(0, (num_episodes, num_steps + 1))
        for key in keys
    }
    valid = torch.ones((num_episodes, num_steps + 1), dtype=torch.bool, device=sim.device)
    valid[:, -1] = False
    return {**data, "action": action, "action_valid": valid, "factors": factors}
