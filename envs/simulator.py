"""What every simulator is: batched pure functions of a state, and the sizes a model needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor

from envs.state import State, num_worlds
from envs.variation import Variation


@runtime_checkable
class Simulator(Protocol):
    """A batch of B worlds advanced by pure functions; a single environment is B = 1.

    No method mutates its arguments. ``transition`` draws its noise from ``seed`` and ``step`` in the state,
    so it is a function of (state, action) and a planner may run it on ``repeat_state(state, N)``.
    """

    env_id: str
    action_dim: int  # A
    action_low: Tensor  # (A,)
    action_high: Tensor  # (A,)
    max_action_norm: float | None  # Euclidean bound on an action, if there is one
    pixels_shape: tuple[int, int, int]  # (C, rows, cols), uint8
    proprio_dim: int  # P
    proprio_low: Tensor  # (P,)
    proprio_high: Tensor  # (P,)
    state_dim: int  # S
    max_steps: int  # episode length of the Gymnasium environments
    device: torch.device
    variation_space: spaces.Dict

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this simulator, on any device; JSON-able."""

    def initial(
        self,
        num_envs: int,
        generator: torch.Generator,
        variation: Variation | None = None,
        *,
        split: str = "train",
    ) -> State:
        """Draw B start states of the tasks of a named split, "train" or "eval"."""

    def transition(self, state: State, action: Tensor) -> State:
        """Advance by one step under ``action (B, A)``, which is clipped to the bounds."""

    def observation(self, state: State) -> dict[str, Tensor]:
        """Return ``pixels`` uint8 ``(B, C, rows, cols)`` and ``proprio`` float32 ``(B, P)``."""

    def pixels(self, state: State) -> Tensor:
        """Return uint8 ``(B, C, rows, cols)``, a function of the state."""

    def proprio(self, state: State) -> Tensor:
        """Return float32 ``(B, P)``."""

    def picture(self, state: State) -> Tensor:
        """Return colour images for people, uint8 ``(B, rows, cols, 3)``."""

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw one reachable goal per world, of the same factors, that is not solved in ``state``."""

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals at positions ``(B, 2)`` or ``(2,)``; an unreachable one is a ``ValueError``."""

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: the goal is reached."""

    def distance(self, state: State, goal: State) -> Tensor:
        """Return ``(B,)`` length of the shortest path to the goal [world units]."""

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the scripted action ``(B, A)`` towards the goal."""

    def state_vector(self, state: State) -> Tensor:
        """Return the whole state as float32 ``(B, S)``."""

    def state_from_vector(self, vector: Tensor) -> State:
        """Invert :meth:`state_vector` exactly."""

    def factors(self, state: State) -> dict[str, Tensor]:
        """Return factor of variation -> its value per world, ``(B, ...)``."""

    def layout_id(self, state: State) -> Tensor:
        """Return int64 ``(B,)``: worlds of equal id have the same layout."""


def check_action(sim: Simulator, action: Tensor, num_envs: int) -> Tensor:
    """Return ``action (B, A)`` as float32 on the simulator's device, checked.

    Raises:
        ValueError: Another shape than ``(num_envs, A)``, or a value that is not finite.
    """
    check_action_shape(action, num_envs, sim.action_dim)
    if not bool(torch.isfinite(action).all()):
        raise ValueError(f"an action must be finite, got {action.tolist()}")
    return action.to(device=sim.device, dtype=torch.float32)


def check_action_shape(action: Tensor, num_envs: int, action_dim: int) -> None:
    """Raise a ``ValueError`` unless ``action`` has shape ``(num_envs, action_dim)``."""
    if tuple(action.shape) != (num_envs, action_dim):
        raise ValueError(
            f"an action must have shape (worlds, action_dim) = {(num_envs, action_dim)}, "
            f"got {tuple(action.shape)}"
        )


def clip_norm(action: Tensor, max_norm: float) -> Tensor:
    """Scale actions ``(..., A)`` that are longer than ``max_norm`` back onto the ball."""
    norm = torch.linalg.vector_norm(action, dim=-1, keepdim=True)
    return action * (max_norm / norm.clamp_min(max_norm))


def clip_action(sim: Simulator, action: Tensor) -> Tensor:
    """Return ``action (B, A)`` inside the simulator's box and norm bounds, as ``transition`` clips it."""
    if sim.max_action_norm is not None:
        return clip_norm(action, sim.max_action_norm)
    return action.clamp(sim.action_low, sim.action_high)


def goal_positions(position: Tensor, num_envs: int, device: torch.device) -> Tensor:
    """Return goal positions as float32 ``(num_envs, 2)``, from one per world or one ``(2,)`` for all.

    Raises:
        ValueError: Another shape.
    """
    position = torch.as_tensor(position, dtype=torch.float32, device=device)
    if position.shape not in ((2,), (num_envs, 2)):
        raise ValueError(
            f"a goal position must have shape (2,) or {(num_envs, 2)}, got {tuple(position.shape)}"
        )
    return position.expand(num_envs, 2).clone()


@runtime_checkable
class PlanarWorld(Protocol):
    """A simulator whose agent is a point in a plane: what can be drawn as a map."""

    success_radius: float  # [world units]
    unit: str  # what a world unit is: "px" or "cells"

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Corners ``x0, y0, x1, y1`` of the drawn world, y downwards."""

    def position(self, state: State) -> Tensor:
        """Return where the agent is, ``(B, 2)``."""

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals at ``position (B, 2)``; ValueError where the agent cannot be."""

    def is_reachable(self, state: State, position: Tensor) -> Tensor:
        """Tell for each ``position (B, 2)`` whether the agent can be there, bool ``(B,)``."""

    def towards(self, state: State, position: Tensor) -> Tensor:
        """Return the action ``(B, A)`` that heads straight for ``position (B, 2)``, whatever is in between."""

    def wall_rectangles(self, state: State) -> Tensor:
        """Return the walls of each world, ``(B, W, 4)`` of ``x0, y0, x1, y1``."""


@runtime_checkable
class SeenTask(Protocol):
    """A simulator whose distance to the goal proprioception shows: planners can be given it as a hard-wired cost."""

    def seen_distance(self, proprio: Tensor, goal: Tensor) -> Tensor:
        """Return :meth:`Simulator.distance` ``(...)`` of ``proprio (..., P)`` to the goal's, differentiable.

        Leading axes broadcast.

        Raises:
            ValueError: as it was set up, the simulator does not show enough.
        """


class VectorLayout:
    """Packs a state into float32 vectors and back, column by column.

    Args:
        template: One state; its keys, trailing shapes and dtypes define the columns.
    """

    def __init__(self, template: Mapping[str, Tensor]) -> None:
        self._columns = [(key, value.shape[1:], value.dtype) for key, value in template.items()]
        self.dim = sum(shape.numel() for _, shape, _ in self._columns)

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return float32 ``(B, S)``; integers below 2^24 survive exactly."""
        num = num_worlds(state)
        return torch.cat(
            [state[key].reshape(num, -1).to(torch.float32) for key, _, _ in self._columns], dim=1
        )

    def unpack(self, vector: Tensor) -> State:
        """Return the state of ``vector (B, S)``.

        Raises:
            ValueError: The vector has another shape.
        """
        if vector.ndim != 2 or vector.shape[1] != self.dim:
            raise ValueError(
                f"a state vector must have shape (worlds, {self.dim}), got {tuple(vector.shape)}"
            )
        parts = vector.split([shape.numel() for _, shape, _ in self._columns], dim=1)
        return {
            key: part.reshape(-1, *shape).to(dtype)
            for (key, shape, dtype), part in zip(self._columns, parts, strict=True)
        }
