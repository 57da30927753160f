"""Any Gymnasium environment as a source of trajectories: instances that act together, to record data in.

They are not a :class:`envs.simulator.Simulator`: their state cannot be set, so nobody plans in them. World models, probes
and diagnostics read what was recorded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional as F

from envs.policies import CorrelatedNoise, Mixture, Policy, UniformRandom, ZeroAction
from envs.registration import registered_ids
from envs.simulator import clip_action
from envs.suggestions import check_whole, did_you_mean

GOAL = "desired_goal"  # of Gymnasium's goal environments: the task, not what is seen
EXTENSIONS = ("gymnasium_robotics",)  # registers its environments when it is imported
SUPERSAMPLED = 2  # pictures are drawn this much larger where the environment lets us, and averaged
GOALLESS = (UniformRandom, CorrelatedNoise, ZeroAction)


def is_foreign(env_id: str) -> bool:
    """Whether ``env_id`` is an environment of Gymnasium, or of an installed extension, and none of ours.

    ``"module:id"`` imports the module that registers ``id``, as in ``gymnasium.make``.
    """
    if env_id in registered_ids():
        return False
    module, _, name = env_id.rpartition(":")
    if module and importlib.util.find_spec(module) is not None:
        importlib.import_module(module)
    if name not in gymnasium.registry:
        for extension in EXTENSIONS:
            if importlib.util.find_spec(extension) is not None:
                gymnasium.register_envs(importlib.import_module(extension))
    return name in gymnasium.registry and name not in registered_ids()


class GymnasiumWorlds:
    """Instances of a Gymnasium environment with bounded continuous actions and observations that are vectors.

    ``proprio`` is the flattened observation, without the goal; ``state`` has positions and velocities of all joints where
    the environment runs on MuJoCo; ``pixels`` are its own pictures, without shadows, reduced to ``image_size``.

    Args:
        env_id: which, see :func:`is_foreign`.
        num_worlds: instances.
        image_size: pixels per side; None records none.
        **kwargs: of the environment.

    Raises:
        ValueError: the environment cannot be made, or has other actions or observations.
    """

    max_action_norm: float | None = None
    device = torch.device("cpu")

    def __init__(self, env_id: str, num_worlds: int, *, image_size: int | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        if not is_foreign(env_id):
            raise ValueError(
                "an environment id must be registered with Gymnasium, got "
                f"{env_id!r}{did_you_mean(env_id, gymnasium.registry)}"
            )
        if image_size is not None:
            check_whole("image_size", image_size, at_least=16)
        self.env_id, self.image_size, self._own_kwargs = env_id, image_size, kwargs
        try:
            self._envs = [_make(env_id, image_size, kwargs) for _ in range(num_worlds)]
            if image_size is not None:  # what it draws with may be missing
                self._envs[0].reset(seed=0)
                self._envs[0].render()
        except (TypeError, ImportError, gymnasium.error.Error) as error:
            raise ValueError(
                f"{env_id} must be made with keywords that it knows, and with what it needs, got {kwargs}: {error}"
            ) from error
        first = self._envs[0]
        self._seen = _vector_space(env_id, first.observation_space)
        action = first.action_space
        if not (isinstance(action, spaces.Box) and action.is_bounded() and len(action.shape or ()) == 1):
            raise ValueError(f"actions must be a bounded vector, got {action} in {env_id}")
        self.action_low, self.action_high = torch.from_numpy(action.low), torch.from_numpy(action.high)
        self.action_dim = len(action.low)
        self.proprio_dim = spaces.flatdim(self._seen)
        spec = first.spec
        self.max_steps = spec.max_episode_steps if spec is not None and spec.max_episode_steps else 1000
        self.has_state = hasattr(first.unwrapped, "data")
        self.state_dim = len(_joints(first)) if self.has_state else 0
        self.pixels_shape = None if image_size is None else (3, image_size, image_size)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the instances."""
        return self._own_kwargs | ({} if self.image_size is None else {"image_size": self.image_size})

    def close(self) -> None:
        """Close the instances."""
        for env in self._envs:
            env.close()

    def record(
        self, policy: Policy, num_episodes: int, num_steps: int, generator: torch.Generator
    ) -> list[dict[str, np.ndarray]]:
        """Record episodes of at most ``num_steps`` actions; one that terminates is shorter.

        Returns:
            Per episode ``proprio (T + 1, P)``, ``action (T + 1, A)`` with a last row of zeros and, where there are any,
            ``state (T + 1, S)`` and ``pixels (T + 1, 3, image_size, image_size)`` uint8.

        Raises:
            ValueError: the policy reads more than the bounds of the actions.
        """
        _check_goalless(policy, self.env_id)
        episodes: list[dict[str, np.ndarray]] = []
        while len(episodes) < num_episodes:
            envs = self._envs[: num_episodes - len(episodes)]
            episodes += self._record_together(envs, policy, num_steps, generator)
        return episodes

    def _record_together(
        self, envs: list[gymnasium.Env[Any, Any]], policy: Policy, num_steps: int, generator: torch.Generator
    ) -> list[dict[str, np.ndarray]]:
        seeds = torch.randint(2**31 - 1, (len(envs),), generator=generator).tolist()
        rows: list[list[dict[str, np.ndarray]]] = []
        for env, seed in zip(envs, seeds, strict=True):
            rows.append([self._row(env, env.reset(seed=seed)[0])])
        running = [True] * len(envs)
        worlds = {"world": torch.arange(len(envs))}
        policy.reset(self, worlds, generator)  # type: ignore[arg-type]
        for _ in range(num_steps):
            actions = clip_action(self, policy.act(self, worlds, generator)).numpy()  # type: ignore[arg-type]
            for number, env in enumerate(envs):
                if not running[number]:
                    continue
                observation, _, terminated, truncated, _ = env.step(actions[number])
                rows[number][-1]["action"] = actions[number]
                rows[number].append(self._row(env, observation))
                running[number] = not (terminated or truncated)
            if not any(running):
                break
        return [{key: np.stack([row[key] for row in episode]) for key in episode[0]} for episode in rows]

    def _row(self, env: gymnasium.Env[Any, Any], observation: Any) -> dict[str, np.ndarray]:  # noqa: ANN401
        if isinstance(observation, Mapping):
            observation = {key: value for key, value in observation.items() if key != GOAL}
        row = {
            "proprio": np.asarray(spaces.flatten(self._seen, observation), np.float32),
            "action": np.zeros(self.action_dim, np.float32),
        }
        if self.has_state:
            row["state"] = _joints(env)
        if self.image_size is not None:
            row["pixels"] = _reduced(env.render(), self.image_size)
        return row


def _make(env_id: str, image_size: int | None, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    if image_size is None:
        return gymnasium.make(env_id, **kwargs)
    size = {"width": SUPERSAMPLED * image_size, "height": SUPERSAMPLED * image_size}
    try:
        env = gymnasium.make(env_id, render_mode="rgb_array", **(size | kwargs))
    except TypeError:  # only MuJoCo's environments are told a size; other pictures are reduced more
        return gymnasium.make(env_id, render_mode="rgb_array", **kwargs)
    model = getattr(env.unwrapped, "model", None)
    if isinstance(model, mujoco.MjModel):  # by software, shadows and reflections take most of the time
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0
    return env


def _vector_space(env_id: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return what is seen, without the goal.

    Raises:
        ValueError: that is no vector, or no mapping of vectors.
    """
    seen = space
    if isinstance(space, spaces.Dict):
        seen = spaces.Dict({key: value for key, value in space.items() if key != GOAL})
    parts = list(seen.values()) if isinstance(seen, spaces.Dict) else [seen]
    if not parts or not all(isinstance(part, spaces.Box) and len(part.shape) == 1 for part in parts):
        raise ValueError(f"observations must be vectors, got {space} in {env_id}")
    return seen


def _joints(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    data = env.unwrapped.data  # type: ignore[attr-defined]
    return np.concatenate([data.qpos, data.qvel]).astype(np.float32)


def _reduced(picture: Any, size: int) -> np.ndarray:  # noqa: ANN401
    """Return a picture ``(rows, cols, 3)`` averaged to ``(3, size, size)``."""
    image = torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1)[None]
    return F.interpolate(image, (size, size), mode="area")[0].round().clamp(0, 255).to(torch.uint8).numpy()


def _check_goalless(policy: Policy, env_id: str) -> None:
    parts = policy.policies if isinstance(policy, Mixture) else [policy]
    for part in parts:
        if not isinstance(part, GOALLESS):
            raise ValueError(
                f"a data policy must be uniform or correlated in {env_id}, which has no goals that it could read, got "
                f"{type(part).__name__}"
            )
