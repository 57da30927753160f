"""Two Rooms: a dot steered through the door of a wall, as batched pure functions.

The world of PLDM (arXiv 2502.14819) and EB-JEPA: 65 x 65 px, border lines at index 4 and 60, one vertical
wall of 3 px with a door of 9 px. It deviates in these points. One dynamics serves data and evaluation: a
blocked dot slides along what it hits. Motion is swept, so no step, however long, crosses a wall. Success is
measured along the shortest path, so that a goal behind the wall is not reached through it. Random layouts
have disjoint splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.hashing import hash_normal
from envs.simulator import VectorLayout, check_action_shape, clip_norm, goal_positions
from envs.state import State, num_worlds, repeat_state
from envs.suggestions import check_choice, check_positive, check_whole
from envs.two_rooms_geometry import (
    HIGH,
    LOW,
    WORLD_SIZE,
    Faces,
    faces,
    is_free,
    next_waypoint,
    shortest_path,
    slide,
)
from envs.two_rooms_layouts import DOOR_Y, HELD_OUT, WALL_X, draw_layout, layout_number
from envs.two_rooms_render import COLORS, TwoRoomsRenderer
from envs.variation import Variation, resolve_variation

EXPERT_MARGIN = 0.5  # how far the expert keeps from the door's corners [px]
GOAL_CANDIDATES = 64  # goals drawn per world, of which the first valid one is taken
NUM_SEEDS = 2**24  # seeds stay exact in a float32 state vector

DEFAULTS: dict[str, Any] = {
    "wall_width": 3.0,  # [px]
    "door_size": 9.0,  # opening [px]
    "dot_size": 1.3,  # std of the Gaussian [px]
    "speed": 1.0,  # multiplies the displacement
    "action_noise": 0.0,  # std of the Gaussian noise on the displacement [px]
}


class TwoRooms:
    """Simulator of Two Rooms; see :class:`envs.simulator.Simulator` for the contract.

    Args:
        layout: "fixed" (wall x 32, door y 18; both splits have this one layout) or "random" (wall x in
            20..44, door y in 10..54; "train" and "eval" layouts are disjoint).
        held_out: what random layouts of "eval" have that none of "train" has: "layouts", the pair of wall and
            door; "lines", the column of the wall and the row of the door, each by itself.
        image_size: Pixels per side of the image; the world stays 65 px wide.
        rgb: Draw three colour channels instead of the two channels dot and walls.
        max_step: Largest norm of an action [px].
        goal_room: Where goals lie relative to the start: "other", "same" or "any" room.
        success_radius: A goal is reached below this distance along the shortest path [px].
        max_steps: Episode length of the Gymnasium environments.
        device: Where states live.
    """

    env_id = "worldmodel/TwoRooms-v0"
    unit = "px"
    action_dim = 2
    proprio_dim = 2

    def __init__(
        self,
        *,
        layout: str = "fixed",
        held_out: str = "layouts",
        image_size: int = 65,
        rgb: bool = False,
        max_step: float = 2.45,
        goal_room: str = "other",
        success_radius: float = 4.5,
        max_steps: int = 200,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("layout", layout, ("fixed", "random"))
        check_choice("held_out", held_out, HELD_OUT)
        if layout == "fixed" and held_out != "layouts":
            raise ValueError(f"held_out must be 'layouts' where the layout is fixed, got {held_out!r}")
        check_choice("goal_room", goal_room, ("other", "same", "any"))
        check_whole("image_size", image_size, at_least=8)
        check_whole("max_steps", max_steps, at_least=1)
        check_positive("max_step", max_step)
        check_positive("success_radius", success_radius)
        self.layout, self.held_out, self.goal_room, self.rgb = layout, held_out, goal_room, rgb
        self.image_size, self.max_steps = int(image_size), int(max_steps)
        self.max_step, self.success_radius = float(max_step), float(success_radius)
        self.device = torch.device(device)
        self.max_action_norm: float | None = self.max_step
        self.action_low = torch.full((2,), -self.max_step, device=self.device)
        self.action_high = torch.full((2,), self.max_step, device=self.device)
        self.proprio_low = torch.zeros(2, device=self.device)
        self.proprio_high = torch.full((2,), WORLD_SIZE - 1.0, device=self.device)
        self.pixels_shape = (3 if rgb else 2, self.image_size, self.image_size)
        self.variation_space = _variation_space(rgb)
        self._render = TwoRoomsRenderer(self.image_size, rgb, self.device)
        self._vector = VectorLayout(self.initial(1, torch.Generator().manual_seed(0)))
        self.state_dim = self._vector.dim

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this simulator, on any device; JSON-able."""
        names = (
            "layout",
            "held_out",
            "image_size",
            "rgb",
            "max_step",
            "goal_room",
            "success_radius",
            "max_steps",
        )
        return {name: getattr(self, name) for name in names}

    def initial(
        self,
        num_envs: int,
        generator: torch.Generator,
        variation: Variation | None = None,
        *,
        split: str = "train",
    ) -> State:
        """Draw B worlds: layout of the split, default factors, position uniform over both rooms.

        Factors in ``variation`` (one value, or one per world) replace the defaults; a layout given in full is
        taken as it is, whatever the split. Where only one of its two numbers is given, the other is drawn
        among the layouts of the split.

        Raises:
            ValueError: Unknown split or factor, a value outside ``variation_space``, or no layout of the
                split has the given wall or door.
        """
        check_choice("split", split, ("train", "eval"))
        given = resolve_variation(self.variation_space, variation, num_envs, self.device)
        wall_x, door_y = draw_layout(self.layout, num_envs, generator, given, split, self.held_out)
        defaults = {**DEFAULTS, **(COLORS if self.rgb else {})}
        default_factors = {
            name: torch.as_tensor(value, dtype=torch.uint8 if name in COLORS else torch.float32)
            .to(self.device)
            .expand(num_envs, *np.shape(value))
            .clone()
            for name, value in defaults.items()
        }
        given = {name: value for name, value in given.items() if name in defaults}
        layout = {"wall_x": wall_x.to(self.device), "door_y": door_y.to(self.device)}
        state = {**layout, **default_factors, **given}
        seed = torch.randint(NUM_SEEDS, (num_envs,), generator=generator, device=generator.device)
        uniform = torch.rand((num_envs, 2), generator=generator, device=generator.device).to(self.device)
        return {
            "position": _place(uniform, self._faces(state)),
            **state,
            "seed": seed.to(self.device),
            "step": torch.zeros(num_envs, dtype=torch.int64, device=self.device),
        }

    def transition(self, state: State, action: Tensor) -> State:
        """Move by ``speed * action + noise`` [px], sliding along walls; ``action (B, 2)`` is clipped."""
        check_action_shape(action, num_worlds(state), 2)
        displacement = clip_norm(action, self.max_step) * state["speed"][:, None]
        if bool((state["action_noise"] > 0).any()):
            noise = hash_normal(state["seed"], state["step"], 2)
            displacement = displacement + state["action_noise"][:, None] * noise
        position = slide(state["position"], displacement, self._faces(state))
        return {**state, "position": position, "step": state["step"] + 1}

    def observation(self, state: State) -> dict[str, Tensor]:
        """Return ``pixels`` uint8 ``(B, C, S, S)`` and ``proprio``, the position ``(B, 2)`` [px]."""
        return {"pixels": self.pixels(state), "proprio": self.proprio(state)}

    def pixels(self, state: State) -> Tensor:
        """Return uint8 ``(B, C, S, S)``: channels dot and walls, or RGB."""
        return self._render(state)

    def proprio(self, state: State) -> Tensor:
        """Return the position ``(B, 2)`` [px]."""
        return state["position"].clone()

    def picture(self, state: State, image_size: int = 260) -> Tensor:
        """Return colour images for people, uint8 ``(B, image_size, image_size, 3)``."""
        render = TwoRoomsRenderer(image_size, True, self.device)
        return render(state).permute(0, 2, 3, 1).contiguous()

    def goal(self, state: State, generator: torch.Generator, *, room: str | None = None) -> State:
        """Draw a goal per world: same factors, another position, in ``room`` (default ``goal_room``).

        Raises:
            ValueError: Unknown room, or none of the candidates is valid (``success_radius`` fills the room).
        """
        room = self.goal_room if room is None else room
        check_choice("room", room, ("other", "same", "any"))
        num, wall = num_worlds(state), self._faces(state)
        shape = (num * GOAL_CANDIDATES, 2)
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(self.device)
        many = repeat_state(state, GOAL_CANDIDATES)
        position = _place(uniform, self._faces(many))
        is_valid = ~self.success(many, {**many, "position": position})
        if room != "any":
            is_same = self._is_left(many) == self._is_left({**many, "position": position})
            is_valid &= is_same if room == "same" else ~is_same
        valid = is_valid.view(num, GOAL_CANDIDATES)
        if not bool(valid.any(1).all()):
            raise ValueError(
                f"a goal must exist in the {room!r} room outside success_radius, got none for success_radius "
                f"{self.success_radius} in world {int((~valid.any(1)).nonzero()[0, 0])}"
            )
        first = valid.to(torch.int8).argmax(1)
        chosen = position.view(num, GOAL_CANDIDATES, 2)[torch.arange(num, device=self.device), first]
        assert bool(is_free(chosen, wall).all())
        return {**state, "position": chosen}

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals at ``position (B, 2)`` [px], or at one ``(2,)`` for all worlds.

        Raises:
            ValueError: A position is not finite or not free (outside the border or in the wall).
        """
        position = goal_positions(position, num_worlds(state), self.device)
        free = is_free(position, self._faces(state))
        if not bool(free.all()):
            raise ValueError(
                "a goal must lie in a room or the door, outside the wall and inside the border "
                f"([{LOW:.3f}, {HIGH:.3f}]), got {position[~free][0].tolist()}"
            )
        return {**state, "position": position}

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: the goal is nearer than ``success_radius`` along the shortest path."""
        return self.distance(state, goal) < self.success_radius

    def distance(self, state: State, goal: State) -> Tensor:
        """Return the length ``(B,)`` of the shortest path to the goal's position [px], exact."""
        return shortest_path(state["position"], goal["position"], self._faces(state)).length

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the action ``(B, 2)`` along the shortest path that keeps off the door's corners."""
        wall = self._faces(state, margin=EXPERT_MARGIN)
        target = next_waypoint(state["position"], goal["position"], wall)
        return self.towards(state, target)

    def towards(self, state: State, position: Tensor) -> Tensor:
        """Return the action ``(B, 2)`` straight towards ``position (B, 2)`` [px], whatever is in between."""
        return clip_norm((position - state["position"]) / state["speed"][:, None], self.max_step)

    def state_vector(self, state: State) -> Tensor:
        """Return the whole state as float32 ``(B, S)``."""
        return self._vector.pack(state)

    def state_from_vector(self, vector: Tensor) -> State:
        """Invert :meth:`state_vector` exactly."""
        return self._vector.unpack(vector.to(self.device))

    def factors(self, state: State) -> dict[str, Tensor]:
        """Return the factors of variation per world, ``(B,)`` or ``(B, 3)`` for colours."""
        return {name: state[name].clone() for name in self.variation_space}

    def layout_id(self, state: State) -> Tensor:
        """Return int64 ``(B,)``, one number per (wall x, door y)."""
        return layout_number(state["wall_x"], state["door_y"])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Corners ``x0, y0, x1, y1`` of the drawn world [px]."""
        return (-0.5, -0.5, WORLD_SIZE - 0.5, WORLD_SIZE - 0.5)

    def position(self, state: State) -> Tensor:
        """Return where the dot is, ``(B, 2)`` [px]."""
        return state["position"].clone()

    def is_reachable(self, state: State, position: Tensor) -> Tensor:
        """Tell for each ``position (B, 2)`` [px] whether the dot can be there, bool ``(B,)``."""
        return is_free(position, self._faces(state))

    def wall_rectangles(self, state: State) -> Tensor:
        """Return the walls of each world as rectangles ``(B, 6, 4)`` of ``x0, y0, x1, y1`` [px]: border, then wall."""
        wall = self._faces(state)
        num = num_worlds(state)
        near, far = LOW - 1.0, HIGH + 1.0  # outer edges of the border lines
        border = torch.tensor(
            [
                [near, near, far, LOW],
                [near, HIGH, far, far],
                [near, near, LOW, far],
                [HIGH, near, far, far],
            ],
            device=self.device,
        )
        low, high = torch.full_like(wall.left, LOW), torch.full_like(wall.left, HIGH)
        above = torch.stack([wall.left, low, wall.right, wall.top], -1)
        below = torch.stack([wall.left, wall.bottom, wall.right, high], -1)
        return torch.cat([border.expand(num, 4, 4), above[:, None], below[:, None]], dim=1)

    def _faces(self, state: State, margin: float = 0.0) -> Faces:
        return faces(state["wall_x"], state["door_y"], state["wall_width"], state["door_size"], margin)

    def _is_left(self, state: State) -> Tensor:
        return state["position"][:, 0] < state["wall_x"]


def _place(uniform: Tensor, wall: Faces) -> Tensor:
    """Map uniforms ``(B, 2)`` in [0, 1) to points uniform over the two rooms (not the door)."""
    x = LOW + uniform[:, 0] * (wall.left - LOW + HIGH - wall.right)
    x = torch.where(x > wall.left, x + (wall.right - wall.left), x)
    return torch.stack([x, LOW + uniform[:, 1] * (HIGH - LOW)], -1).clamp(LOW, HIGH)


def _variation_space(rgb: bool) -> spaces.Dict:
    def interval(low: float, high: float) -> spaces.Box:
        return spaces.Box(low, high, (), np.float32)

    factors: dict[str, spaces.Space[Any]] = {
        "wall_x": spaces.Discrete(WALL_X[1] - WALL_X[0] + 1, start=WALL_X[0]),
        "door_y": spaces.Discrete(DOOR_Y[1] - DOOR_Y[0] + 1, start=DOOR_Y[0]),
        "wall_width": interval(1.0, 7.0),
        "door_size": interval(3.0, 15.0),
        "dot_size": interval(0.7, 3.0),
        "speed": interval(0.25, 2.0),
        "action_noise": interval(0.0, 2.0),
    }
    if rgb:
        factors |= {name: spaces.Box(0, 255, (3,), np.uint8) for name in COLORS}
    return spaces.Dict(factors)
