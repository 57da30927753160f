"""The environments of this package by id, and their registration with Gymnasium.

This module imports neither torch nor a simulator: a simulator is loaded when it is made. Gymnasium 1 calls no
entry points by itself, so ``import envs`` registers, and ``gymnasium.make("envs:worldmodel/TwoRooms-v0")``
imports ``envs``.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

import gymnasium

from envs.suggestions import did_you_mean

if TYPE_CHECKING:
    from envs.simulator import Simulator

# Environment id -> "module:class" of its simulator.
_SIMULATORS = {
    "worldmodel/CartPole-v0": "envs.mujoco.cart_pole:CartPole",
    "worldmodel/MovingDot-v0": "envs.moving_dot:MovingDot",
    "worldmodel/PointMaze-v0": "envs.mujoco.point_maze:PointMaze",
    "worldmodel/PushT-v0": "envs.mujoco.push_t:PushT",
    "worldmodel/Reacher-v0": "envs.mujoco.reacher:Reacher",
    "worldmodel/TwoRooms-v0": "envs.two_rooms:TwoRooms",
}


def registered_ids() -> list[str]:
    """Return the ids that :func:`make_simulator` and ``gymnasium.make`` know, sorted."""
    return sorted(_SIMULATORS)


def make_simulator(env_id: str, **kwargs: Any) -> Simulator:  # noqa: ANN401  (checked against the signature)
    """Make the batched simulator of ``env_id``.

    Args:
        env_id: One of :func:`registered_ids`.
        **kwargs: Keyword arguments of the simulator's class.

    Raises:
        ValueError: Unknown id; no such keyword; a value that the simulator refuses.
    """
    if env_id not in _SIMULATORS:
        raise ValueError(
            f"an environment id must be registered, got {env_id!r}{did_you_mean(env_id, _SIMULATORS)}"
        )
    module, name = _SIMULATORS[env_id].split(":")
    simulator = getattr(importlib.import_module(module), name)
    known = list(inspect.signature(simulator).parameters)
    for key in kwargs:
        if key not in known:
            raise ValueError(f"a keyword of {env_id} must be known, got {key!r}{did_you_mean(key, known)}")
    try:
        return simulator(**kwargs)
    except TypeError as error:
        raise ValueError(
            f"keywords of {env_id} must have the types of their defaults, got {kwargs}"
        ) from error


def register_envs() -> None:
    """Register every environment with Gymnasium, once; calling it again changes nothing."""
    for env_id in registered_ids():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point="envs.adapters:SimulatorEnv",
                vector_entry_point="envs.adapters:SimulatorVectorEnv",
                kwargs={"env_id": env_id},
            )
