"""Goal-reaching episodes in a batch of worlds: what the Gymnasium environments of :mod:`envs.adapters` run.

Observations hold the view of now and of the goal. Actions are normalised to [-1, 1], as Gymnasium recommends,
and scaled to the simulator's box; its norm bound then applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.registration import make_simulator
from envs.simulator import Simulator, check_action
from envs.state import State, concat_states, where_state
from envs.suggestions import check_choice, did_you_mean
from envs.variation import resolve_variation

Observation = dict[str, np.ndarray]
OPTIONS = ("variation", "split", "goal")
GOAL_OPACITY = 0.35  # of the goal drawn over a rendered frame


def observation_space(sim: Simulator) -> spaces.Dict:
    """Return the space of one world's observation."""
    pixels = spaces.Box(0, 255, sim.pixels_shape, np.uint8)
    proprio = spaces.Box(sim.proprio_low.cpu().numpy(), sim.proprio_high.cpu().numpy(), dtype=np.float32)
    return spaces.Dict({"pixels": pixels, "proprio": proprio, "goal_pixels": pixels, "goal_proprio": proprio})


def action_space(sim: Simulator) -> spaces.Box:
    """Return the normalised action space of one world."""
    return spaces.Box(-1.0, 1.0, (sim.action_dim,), np.float32)


def scale_action(sim: Simulator, action: object, num_envs: int) -> Tensor:
    """Return the simulator's actions ``(B, A)`` for normalised ones, which are clipped to [-1, 1].

    Raises:
        ValueError: A wrong shape, or a value that is not finite.
    """
    tensor = torch.from_numpy(np.array(action, dtype=np.float32))
    tensor = check_action(sim, tensor, num_envs).clamp(-1.0, 1.0)
    return sim.action_low + (tensor + 1.0) / 2.0 * (sim.action_high - sim.action_low)


def normalize_action(sim: Simulator, action: Tensor) -> np.ndarray:
    """Return the normalised action of a simulator's action ``(..., A)``, such as its expert's."""
    return (2.0 * (action - sim.action_low) / (sim.action_high - sim.action_low) - 1.0).cpu().numpy()


class GoalTask:
    """The batch of worlds behind an environment: simulator, states, goals and one generator per world."""

    def __init__(self, env_id: str, num_envs: int, split: str, kwargs: dict[str, Any]) -> None:
        check_choice("split", split, ("train", "eval"))
        self.sim, self.num_envs, self.split = make_simulator(env_id, **kwargs), num_envs, split
        self.state: State = {}
        self.goal: State = {}
        self.elapsed = torch.zeros(num_envs, dtype=torch.int64, device=self.sim.device)
        self._generators: list[torch.Generator] = []
        self._goal_view: dict[str, Tensor] = {}

    def seed(self, randoms: Sequence[np.random.Generator]) -> None:
        """Give each world a generator of its own, so that a world's episodes do not depend on the others."""
        self._generators = [
            torch.Generator().manual_seed(int(random.integers(2**63 - 1))) for random in randoms
        ]

    def reset(self, options: dict[str, Any] | None) -> None:
        """Start every world; ``options`` hold for this start only."""
        options = {} if options is None else options
        for name in options:
            if name not in OPTIONS:
                raise ValueError(f"a reset option must be known, got {name!r}{did_you_mean(name, OPTIONS)}")
        given = resolve_variation(
            self.sim.variation_space, options.get("variation"), self.num_envs, self.sim.device
        )
        starts = [
            self._draw(world, {name: value[world : world + 1] for name, value in given.items()}, options)
            for world in range(self.num_envs)
        ]
        self.state, self.goal = (concat_states(list(part)) for part in zip(*starts, strict=True))
        if options.get("goal") is not None:
            self.goal = self.sim.goal_at(self.state, torch.as_tensor(np.asarray(options["goal"])))
        self.elapsed = torch.zeros_like(self.elapsed)
        self._goal_view = self.sim.observation(self.goal)

    def restart(self, is_over: np.ndarray) -> None:
        """Start another episode in the worlds of the mask ``is_over (B,)``."""
        fresh = [self._draw(int(world), {}, {}) for world in is_over.nonzero()[0]]
        state, goal = (concat_states(list(part)) for part in zip(*fresh, strict=True))
        worlds = torch.from_numpy(is_over.nonzero()[0]).to(self.sim.device)
        view = self.sim.observation(goal)
        self.state, self.goal, self._goal_view = (
            {key: value.index_copy(0, worlds, part[key]) for key, value in whole.items()}
            for whole, part in ((self.state, state), (self.goal, goal), (self._goal_view, view))
        )
        self.elapsed = self.elapsed.index_fill(0, worlds, 0)

    def advance(self, action: Tensor, is_moving: Tensor) -> None:
        """Advance the worlds of the mask ``is_moving (B,)``."""
        self.state = where_state(is_moving, self.sim.transition(self.state, action), self.state)
        self.elapsed = self.elapsed + is_moving

    def observation(self) -> Observation:
        """Return the batch of observations, in memory of their own."""
        view = {**self.sim.observation(self.state), **{f"goal_{k}": v for k, v in self._goal_view.items()}}
        return {key: np.array(value.cpu().numpy()) for key, value in view.items()}

    def outcome(self) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each world is at its goal, and whether its time is over, bool ``(B,)`` each."""
        is_solved = self.sim.success(self.state, self.goal).cpu().numpy()
        return is_solved, (self.elapsed >= self.sim.max_steps).cpu().numpy()

    def pictures(self) -> np.ndarray:
        """Return uint8 ``(B, rows, cols, 3)`` with the goal drawn faintly over the state."""
        now, goal = (self.sim.picture(state).to(torch.float32) for state in (self.state, self.goal))
        return torch.lerp(now, goal, GOAL_OPACITY).round().to(torch.uint8).cpu().numpy()

    def _draw(self, world: int, variation: dict[str, Tensor], options: dict[str, Any]) -> tuple[State, State]:
        generator = self._generators[world]
        state = self.sim.initial(1, generator, variation, split=options.get("split", self.split))
        return state, self.sim.goal(state, generator)
