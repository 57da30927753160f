"""Data policies: who moves the dot while trajectories are recorded, and reference rows of evaluations.

A policy carries what a trajectory needs (headings, goals) for all worlds at once. ``reset`` draws it, ``act``
returns one action per world. All randomness comes from the generator. Lengths are in the simulator's action
units [px].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from envs.simulator import PlanarWorld, Simulator, clip_action
from envs.state import State, index_state, num_worlds
from envs.von_mises import sample_von_mises


class Policy(Protocol):
    """Chooses actions from the true state."""

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Start B trajectories in ``state``."""

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return one action per world, ``(B, A)``, inside the bounds."""


class ZeroAction:
    """Stays where it is."""

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Do nothing: there is nothing to carry."""

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return zeros ``(B, A)``."""
        return torch.zeros((num_worlds(state), sim.action_dim), device=sim.device)


class UniformRandom:
    """Draws every action uniformly from the bounds: the norm ball where there is one, else the box."""

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Do nothing: there is nothing to carry."""

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, A)``."""
        shape = (num_worlds(state), sim.action_dim)
        if sim.max_action_norm is None:
            uniform = _uniform(shape, sim, generator)
            return sim.action_low + uniform * (sim.action_high - sim.action_low)
        normal = torch.randn(shape, generator=generator, device=generator.device).to(sim.device)
        radius = _uniform((shape[0], 1), sim, generator) ** (1.0 / sim.action_dim)
        return sim.max_action_norm * radius * torch.nn.functional.normalize(normal, dim=-1)


class CorrelatedNoise:
    """Draws actions that change slowly: a discrete Ornstein-Uhlenbeck process, clipped to the bounds.

    ``a <- decay * a + noise * n`` with standard normal ``n``, in half widths of the bounds around their middle.
    (Uhlenbeck & Ornstein 1930; exploration noise of DDPG, arXiv 1509.02971.) Independent noise hardly moves what has
    inertia.

    Args:
        decay: share of the last action that stays, in [0, 1).
        noise: standard deviation of what is added [half widths].
    """

    def __init__(self, decay: float = 0.9, noise: float = 0.6) -> None:
        if not (0 <= decay < 1 and noise > 0):
            raise ValueError(f"decay must be in [0, 1) and noise > 0, got {decay} and {noise}")
        self.decay, self.noise = decay, noise
        self._last = torch.empty(0)  # (B, A) [half widths]

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Draw the last action from what the process tends to without bounds."""
        shape = (num_worlds(state), sim.action_dim)
        std = self.noise / math.sqrt(1.0 - self.decay**2)
        self._last = std * torch.randn(shape, generator=generator, device=generator.device).to(sim.device)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, A)``."""
        drawn = torch.randn(self._last.shape, generator=generator, device=generator.device).to(sim.device)
        assert len(drawn) == num_worlds(state)
        self._last = (self.decay * self._last + self.noise * drawn).clamp(-1.0, 1.0)
        middle, half = (sim.action_high + sim.action_low) / 2, (sim.action_high - sim.action_low) / 2
        return clip_action(sim, middle + half * self._last)


class HeadingRandomWalk:
    """Walks with a heading that turns by von Mises increments and step lengths that are truncated normal.

    Args:
        kappa: Concentration of the turns; 0 draws every direction afresh.
        step_mean: Mean of the normal [px].
        step_std: Its standard deviation [px].
        step_min: Where it is cut off below [px].
        step_max: Where it is cut off above [px].
    """

    def __init__(
        self,
        kappa: float = 5.0,
        step_mean: float = 1.0,
        step_std: float = 0.4,
        step_min: float = 0.2,
        step_max: float = 1.8,
    ) -> None:
        if not (step_std > 0 and 0 <= step_min < step_max):
            raise ValueError(
                f"step lengths must have a positive std and 0 <= min < max, got std {step_std}, "
                f"min {step_min}, max {step_max}"
            )
        self.kappa = kappa
        self.step_mean, self.step_std, self.step_min, self.step_max = step_mean, step_std, step_min, step_max
        self._heading = torch.empty(0)  # (B,) [rad]

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Draw uniform headings."""
        self._heading = 2.0 * math.pi * _uniform((num_worlds(state),), sim, generator)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Turn, then step: ``(B, 2)``."""
        num = num_worlds(state)
        self._heading = self._heading + sample_von_mises((num,), self.kappa, generator).to(sim.device)
        return clip_action(sim, self.step_length(num, sim, generator)[:, None] * _direction(self._heading))

    def step_length(self, num: int, sim: Simulator, generator: torch.Generator) -> Tensor:
        """Draw ``(num,)`` lengths by inverting the truncated normal's distribution function [px]."""
        low, high = (
            0.5 * (1.0 + math.erf((end - self.step_mean) / (self.step_std * math.sqrt(2.0))))
            for end in (self.step_min, self.step_max)
        )
        level = low + (high - low) * _uniform((num,), sim, generator)
        length = self.step_mean + self.step_std * torch.special.ndtri(level)
        return length.clamp(self.step_min, self.step_max)


class DirectedWalk:
    """Walks around one mean direction per trajectory: the data policy of the moving dot (arXiv 2211.10831).

    Args:
        kappa: Concentration of the angles around the mean angle.
        step_max: Lengths are uniform in [0, ``step_max``) [px].
    """

    def __init__(self, kappa: float = 0.2, step_max: float = 4.0) -> None:
        self.kappa, self.step_max = kappa, step_max
        self._mean_angle = torch.empty(0)  # (B,) [rad]

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Draw uniform mean angles."""
        self._mean_angle = 2.0 * math.pi * _uniform((num_worlds(state),), sim, generator)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, 2)``."""
        num = num_worlds(state)
        angle = self._mean_angle + sample_von_mises((num,), self.kappa, generator).to(sim.device)
        length = self.step_max * _uniform((num,), sim, generator)
        return clip_action(sim, length[:, None] * _direction(angle))


class _GoalPolicy:
    """Carries one goal per world, and draws another where it is reached (unless the goals were given)."""

    def __init__(self) -> None:
        self._goal: State = {}
        self._is_given = False

    def reset(
        self, sim: Simulator, state: State, generator: torch.Generator, *, goal: State | None = None
    ) -> None:
        """Take ``goal``, which then stays, or draw the first goals."""
        self._is_given = goal is not None
        self._goal = sim.goal(state, generator) if goal is None else goal

    def current_goal(self, sim: Simulator, state: State, generator: torch.Generator) -> State:
        """Return the goals to pursue from ``state``."""
        reached = sim.success(state, self._goal)
        if not self._is_given and bool(reached.any()):
            worlds = reached.nonzero()[:, 0]
            drawn = sim.goal(index_state(state, worlds), generator)
            self._goal = {key: value.index_copy(0, worlds, drawn[key]) for key, value in self._goal.items()}
        return self._goal


class Expert(_GoalPolicy):
    """Follows the simulator's expert from goal to goal.

    Args:
        noise: Standard deviation of Gaussian noise added to each action [action units].
    """

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        if not noise >= 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.noise = noise

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, A)``."""
        action = sim.expert(state, self.current_goal(sim, state, generator))
        if self.noise > 0:
            normal = torch.randn(action.shape, generator=generator, device=generator.device)
            action = action + self.noise * normal.to(sim.device)
        return clip_action(sim, action)


class StraightLine(_GoalPolicy):
    """Heads straight for the goal, whatever is in between."""

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, 2)``."""
        goal = self.current_goal(sim, state, generator)
        if not isinstance(sim, PlanarWorld):
            raise ValueError(f"StraightLine must be used in a planar world, got {sim.env_id}")
        return sim.towards(state, sim.position(goal))


class DoorCrossing:
    """Sends a fraction of the trajectories through the door; the rest, and who has arrived, walks at random.

    A crossing trajectory follows the shortest path to a random goal in the other room, with the walk's step
    lengths and some turning. How many arrive depends on the time they have: at 1 px per step nearly all in 90
    steps. Walkers may cross by chance on top of ``rate``.

    Args:
        rate: Fraction of trajectories that are sent, each drawn independently.
        kappa: Concentration of a sent trajectory's heading around the shortest path.
        walk: The random walk, or its arguments; its step lengths serve both.
    """

    def __init__(
        self,
        rate: float = 0.35,
        kappa: float = 20.0,
        walk: HeadingRandomWalk | Mapping[str, float] | None = None,
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {rate}")
        self.rate, self.kappa = rate, kappa
        self.walk = walk if isinstance(walk, HeadingRandomWalk) else HeadingRandomWalk(**(walk or {}))
        self._goal: State = {}
        self._is_sent = torch.empty(0, dtype=torch.bool)  # (B,)

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Draw who is sent, and where.

        Raises:
            ValueError: The simulator has no rooms.
        """
        if "wall_x" not in state:
            raise ValueError(f"DoorCrossing must be used in a world with a door, got {sim.env_id}")
        self.walk.reset(sim, state, generator)
        self._goal = sim.goal(state, generator, room="other")  # type: ignore[call-arg]
        self._is_sent = _uniform((num_worlds(state),), sim, generator) < self.rate

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, 2)``."""
        num = num_worlds(state)
        walking = self.walk.act(sim, state, generator)
        length = self.walk.step_length(num, sim, generator)
        turn = sample_von_mises((num,), self.kappa, generator).to(sim.device)
        self._is_sent = self._is_sent & ~sim.success(state, self._goal)
        ahead = sim.expert(state, self._goal)
        sent = length[:, None] * _direction(torch.atan2(ahead[:, 1], ahead[:, 0]) + turn)
        return torch.where(self._is_sent[:, None], clip_action(sim, sent), walking)


class RandomWaypoints:
    """Heads straight for one random place after the other, for a few steps each: the random waypoint model.

    (Johnson & Maltz 1996, mobility of ad hoc networks.) It presses against walls, slides along them and falls through
    doors, as planners try to; a random walk with small steps seldom does. Walls are not avoided, nothing is rewarded.

    Args:
        patience: Steps for one place are uniform in 1 .. ``patience``, also where it cannot be reached.
        step_min: The speed is drawn with the place, uniform from here [px] to the largest action.
        turn: Standard deviation of each step's direction around the straight line [rad].
    """

    def __init__(self, patience: int = 16, step_min: float = 1.2, turn: float = 0.1) -> None:
        if not (patience >= 1 and step_min >= 0 and turn >= 0):
            raise ValueError(
                f"patience must be >= 1, step_min and turn >= 0, got {patience}, {step_min} and {turn}"
            )
        self.patience, self.step_min, self.turn = patience, step_min, turn
        self._largest = step_min  # of the simulator's actions
        self._place = torch.empty(0)  # (B, 2) [px]
        self._speed = torch.empty(0)  # (B,) [px]
        self._left = torch.empty(0, dtype=torch.int64)  # (B,) steps

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:  # noqa: ARG002
        """Draw the first places.

        Raises:
            ValueError: The simulator has no places to go to, or ``step_min`` is above its largest action.
        """
        if not isinstance(sim, PlanarWorld):
            raise ValueError(f"RandomWaypoints must be used in a planar world, got {sim.env_id}")
        largest = float(sim.action_high.min()) if sim.max_action_norm is None else sim.max_action_norm
        if self.step_min > largest:
            raise ValueError(f"step_min must be <= the largest action, {largest}, got {self.step_min}")
        self._largest = largest
        num = num_worlds(state)
        self._place = torch.zeros((num, 2), device=sim.device)
        self._speed = torch.zeros(num, device=sim.device)
        self._left = torch.zeros(num, dtype=torch.int64, device=sim.device)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, 2)``."""
        assert isinstance(sim, PlanarWorld)
        num, (left, top, right, bottom) = num_worlds(state), sim.extent
        low, high = torch.tensor([left, top]), torch.tensor([right, bottom])
        place = (low + (high - low) * _uniform((num, 2), sim, generator).cpu()).to(sim.device)
        speed = self.step_min + (self._largest - self.step_min) * _uniform((num,), sim, generator)
        steps = (1 + self.patience * _uniform((num,), sim, generator)).long().clamp(max=self.patience)
        position = sim.position(state)
        is_done = (self._left <= 0) | ((self._place - position).norm(dim=-1) < self._speed)
        self._place = torch.where(is_done[:, None], place, self._place)
        self._speed = torch.where(is_done, speed, self._speed)
        self._left = torch.where(is_done, steps, self._left) - 1
        ahead = self._place - position
        noise = torch.randn(num, generator=generator, device=generator.device).to(sim.device)
        angle = torch.atan2(ahead[:, 1], ahead[:, 0]) + self.turn * noise
        return clip_action(sim, self._speed[:, None] * _direction(angle))


class OneRoom:
    """Another policy that is kept out of the door: a step that would leave the room or enter the door is reflected.

    Data in which no trajectory passes through the door.

    Args:
        walk: Who acts otherwise.
    """

    def __init__(self, walk: Policy) -> None:
        self.walk = walk

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Start the other policy.

        Raises:
            ValueError: The simulator has no rooms.
        """
        if "wall_x" not in state:
            raise ValueError(f"OneRoom must be used in a world with a door, got {sim.env_id}")
        self.walk.reset(sim, state, generator)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, 2)``; steps along the wall where the reflected step would leave the room, too."""
        action = self.walk.act(sim, state, generator)
        for factor in (-1.0, 0.0):
            turned = action * torch.tensor([factor, 1.0], device=sim.device)
            action = torch.where(self._leaves(sim, state, action)[:, None], turned, action)
        return action

    @staticmethod
    def _leaves(sim: Simulator, state: State, action: Tensor) -> Tensor:
        side = (state["position"] - state["wall_x"][:, None])[:, 0].sign()
        after = sim.transition(state, action)
        clearance = side * (after["position"][:, 0] - after["wall_x"])
        return clearance < state["wall_width"] / 2


class Mixture:
    """Gives each world one of several policies for the length of a trajectory.

    Args:
        policies: Policy -> weight; weights are proportions and need not add up to 1.
    """

    def __init__(self, policies: Mapping[Policy, float]) -> None:
        weights = list(policies.values())
        if not weights or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(f"weights must be at least 0, finite and not all 0, got {weights}")
        self.policies, self.weights = list(policies), weights
        self._choice = torch.empty(0, dtype=torch.int64)  # (B,)

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:
        """Draw each world's policy and reset them all."""
        weights = torch.tensor(self.weights, dtype=torch.float64, device=generator.device)
        drawn = torch.multinomial(weights, num_worlds(state), replacement=True, generator=generator)
        self._choice = drawn.to(sim.device)
        for policy in self.policies:
            policy.reset(sim, state, generator)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, A)``."""
        actions = torch.stack([policy.act(sim, state, generator) for policy in self.policies])  # (K, B, A)
        return actions[self._choice, torch.arange(num_worlds(state), device=sim.device)]


def _uniform(shape: tuple[int, ...], sim: Simulator, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(sim.device)


def _direction(angle: Tensor) -> Tensor:
    """Return unit vectors ``(B, 2)`` of angles ``(B,)`` [rad]."""
    return torch.stack([angle.cos(), angle.sin()], -1)
