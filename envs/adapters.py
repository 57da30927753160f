"""Gymnasium environments of any simulator: one world, or a batch with next-step autoreset.

The task is to reach a goal: the reward is 1 in the step that reaches it and 0 before, and an episode ends
there or after ``max_steps``. See :mod:`envs.goal_task` for observations and actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.goal_task import GoalTask, Observation, action_space, observation_space, scale_action
from envs.simulator import Simulator
from envs.state import State

FPS = 20


class SimulatorEnv(gymnasium.Env[Any, np.ndarray]):
    """One world of a simulator.

    ``reset`` takes the options ``variation`` (factor -> value), ``split`` ("train" or "eval") and ``goal`` (a
    position); they hold for that episode. ``info`` has ``success`` (bool) and ``state``, the vector ``(S,)``.

    Args:
        env_id: Which simulator.
        render_mode: None or "rgb_array".
        split: Whose tasks to draw: "train" or "eval".
        **kwargs: Keyword arguments of the simulator.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's declaration)
        "render_modes": ["rgb_array"],
        "render_fps": FPS,
    }

    def __init__(
        self,
        env_id: str,
        render_mode: str | None = None,
        split: str = "train",
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        _check_render_mode(render_mode)
        self._task = GoalTask(env_id, 1, split, kwargs)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.simulator)
        self.action_space = action_space(self.simulator)

    @property
    def simulator(self) -> Simulator:
        """The simulator behind this environment."""
        return self._task.sim

    @property
    def state(self) -> State:
        """The state of the world, B = 1."""
        return self._task.state

    @property
    def goal(self) -> State:
        """The goal of the episode, B = 1."""
        return self._task.goal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Raises:
            ValueError: An unknown option, factor or split, or a goal outside the reachable world.
        """
        is_first = not self._task.state
        super().reset(seed=seed)
        if seed is not None or is_first:
            self._task.seed([self.np_random])
        self._task.reset(options)
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one normalised action ``(A,)``.

        Raises:
            ValueError: The action has another shape or is not finite.
        """
        batch = np.asarray(action)[None]
        moving = torch.ones(1, dtype=torch.bool, device=self.simulator.device)
        self._task.advance(scale_action(self.simulator, batch, 1), moving)
        is_solved, is_over = (bool(part[0]) for part in self._task.outcome())
        return self._observe(), float(is_solved), is_solved, is_over and not is_solved, self._info()

    def render(self) -> np.ndarray | None:
        """Return a frame ``(rows, cols, 3)``; None without a render mode."""
        return self._task.pictures()[0] if self.render_mode == "rgb_array" else None

    def _observe(self) -> Observation:
        return {key: value[0] for key, value in self._task.observation().items()}

    def _info(self) -> dict[str, Any]:
        vector = self.simulator.state_vector(self.state)[0].cpu().numpy()
        return {"success": bool(self._task.outcome()[0][0]), "state": vector.copy()}


class SimulatorVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """B worlds of a simulator that advance as one batch; next-step autoreset.

    World i seeded with ``seed + i`` repeats :class:`SimulatorEnv` seeded with it. Options are those of
    :class:`SimulatorEnv`, with one value for all worlds or one per world; an autoreset has none.

    Args:
        env_id: Which simulator.
        num_envs: B.
        render_mode: None or "rgb_array".
        split: Whose tasks to draw: "train" or "eval".
        **kwargs: Keyword arguments of the simulator.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's declaration)
        "render_modes": ["rgb_array"],
        "render_fps": FPS,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        render_mode: str | None = None,
        split: str = "train",
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        _check_render_mode(render_mode)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self._task = GoalTask(env_id, num_envs, split, kwargs)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space = observation_space(self.simulator)
        self.single_action_space = action_space(self.simulator)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._needs_reset = np.zeros(num_envs, dtype=np.bool_)

    @property
    def simulator(self) -> Simulator:
        """The simulator behind this environment."""
        return self._task.sim

    @property
    def state(self) -> State:
        """The states of the worlds."""
        return self._task.state

    @property
    def goal(self) -> State:
        """The goals of the worlds."""
        return self._task.goal

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every world.

        Raises:
            ValueError: Not one seed per world; an unknown option, factor or split; an unreachable goal.
        """
        if seed is not None or not self._task.state:
            self._task.seed(self._randoms(seed))
        self._task.reset(options)
        self._needs_reset = np.zeros(self.num_envs, dtype=np.bool_)
        return self._task.observation(), self._info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Apply normalised actions ``(B, A)``; a world whose episode ended starts another instead.

        Raises:
            ValueError: The actions have another shape or are not finite.
        """
        scaled = scale_action(self.simulator, actions, self.num_envs)
        moving = ~self._needs_reset
        self._task.advance(scaled, torch.from_numpy(moving).to(self.simulator.device))
        if self._needs_reset.any():
            self._task.restart(self._needs_reset)
        is_solved, is_over = self._task.outcome()
        terminated = is_solved & moving
        truncated = is_over & moving & ~terminated
        self._needs_reset = terminated | truncated
        return self._task.observation(), terminated.astype(np.float64), terminated, truncated, self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one frame ``(rows, cols, 3)`` per world; None without a render mode."""
        return tuple(self._task.pictures()) if self.render_mode == "rgb_array" else None

    def _randoms(self, seed: int | Sequence[int | None] | None) -> list[np.random.Generator]:
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + world for world in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be one number or {self.num_envs} of them, got {len(seeds)}")
        return [seeding.np_random(each)[0] for each in seeds]

    def _info(self) -> dict[str, Any]:
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        vector = self.simulator.state_vector(self.state).cpu().numpy()
        return {
            "success": self._task.outcome()[0],
            "_success": everywhere,
            "state": vector.copy(),
            "_state": everywhere.copy(),
        }


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
