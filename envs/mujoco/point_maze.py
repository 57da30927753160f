"""PointMaze: a ball that rolls through random mazes, by MuJoCo.

The task of the point mazes of D4RL (arXiv 2004.07219) and PLDM (arXiv 2502.14819) on a model of our own: unit cells and a
ball of radius .2 on two slides, actuated by velocity or by force. Mazes are random and connected; training and evaluation
share none. y points down, as in pictures.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.mujoco import mazes
from envs.mujoco.point_maze_model import DAMPING, GAIN, NUM_SUBSTEPS, PARKED, RADIUS, SPEED, model_xml
from envs.mujoco.task import Factor, MujocoTask
from envs.simulator import clip_norm, goal_positions
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_positive, check_whole
from envs.variation import Variation, resolve_variation

START_JITTER = 0.3  # around a cell's centre [cells]
GOAL_JITTER = 0.2  # the same; no goal is within reach across a corner
MIN_DISTANCE = {5: 3.0, 7: 6.0}  # from start to goal along the way, by size [cells]
MAX_STEPS = {5: 100, 7: 150}
DETOUR = 2.0  # in the split "detour" ways are at least this many times as long as straight lines
SPLITS = (*mazes.SPLITS, "detour")
TRIES = 100  # redraws of mazes and starts that no goal is far enough from
EXPERT_GAIN = 5.0  # velocity per distance [1/s]
EXPERT_LAG = 0.1  # in which forces are to correct a velocity [s]

PHYSICAL = {
    "mass": Factor(0.25, 4.0, ("body_mass",)),
    "gain": Factor(0.25, 2.0, ("actuator_gainprm",)),
    "damping": Factor(0.25, 4.0, ("dof_damping",)),
}
COLORS: dict[str, tuple[int, int, int]] = {
    "ball_color": (214, 40, 40),
    "wall_color": (38, 50, 72),
    "background_color": (245, 243, 238),
}


class PointMaze(MujocoTask):
    """Simulator of PointMaze; see :class:`envs.simulator.Simulator` for the contract.

    Actions are ``(2,)`` in [-1, 1]: shares of the largest velocity, 4 cells/s, or of the force that leads to it.

    Args:
        size: 5 or 7 cells per side, without the border.
        num_mazes: how many mazes the split "train" has; None gives every episode a maze of its own. "eval" always does,
            and "detour", whose mazes are as much held out and whose goals are twice as far along the way as they look.
        actuation: "velocity" (with a time constant of .1 s) or "force" (of .5 s).
        image_size: pixels per side.
        render_backend: who draws ``pixels``: "raster", batched, or "mujoco", which needs an OpenGL context.
        min_distance: of the centre of a goal's cell from the start, along the way [cells]; None takes 3 for size 5 and
            6 for size 7.
        success_radius: a goal is reached below this distance between the centres [cells].
        max_steps: episode length of the Gymnasium environments; None takes 100 and 150.
        device: where states live. Physics runs on the CPU.
    """

    env_id = "worldmodel/PointMaze-v0"
    unit = "cells"
    proprio_dim = 4
    colours = COLORS
    drawn_sizes = {"ball_size": "ball_color"}  # noqa: RUF012
    world_fields = ("geom_pos",)

    def __init__(
        self,
        *,
        size: int = 7,
        num_mazes: int | None = None,
        actuation: str = "velocity",
        image_size: int = 64,
        render_backend: str = "raster",
        min_distance: float | None = None,
        success_radius: float = 0.5,
        max_steps: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("actuation", actuation, ("velocity", "force"))
        if size not in MIN_DISTANCE:
            raise ValueError(f"size must be one of {', '.join(map(str, MIN_DISTANCE))}, got {size}")
        self.size, self.actuation, self.num_mazes = int(size), actuation, num_mazes
        self._mazes: Tensor | None = None  # (num_mazes, n, n) bool, the same in every process
        if num_mazes is not None:
            check_whole("num_mazes", num_mazes, at_least=1)
            fixed = torch.Generator().manual_seed(0)
            self._mazes = mazes.draw_mazes(num_mazes, self.size, fixed, "train")
        self.min_distance = float(MIN_DISTANCE[size] if min_distance is None else min_distance)
        self.max_steps = int(MAX_STEPS[size] if max_steps is None else max_steps)
        self.success_radius = float(success_radius)
        check_positive("min_distance", self.min_distance)
        check_positive("success_radius", self.success_radius)
        check_whole("max_steps", self.max_steps, at_least=1)
        without = {"damping"} if actuation == "velocity" else set()  # those actuators have all of it
        self.physical = {name: factor for name, factor in PHYSICAL.items() if name not in without}
        half_width = self.size / 2 + 1.0
        walls = [*(f"border{side}" for side in range(4)), *(f"wall{k}" for k in range(mazes.max_walls(size)))]
        super().__init__(
            model_xml(self.size, actuation, half_width),
            num_substeps=NUM_SUBSTEPS,
            half_width=half_width,
            layers={"background_color": ["background"], "wall_color": walls, "ball_color": ["ball"]},
            image_size=image_size,
            render_backend=render_backend,
            device=device,
        )
        self.proprio_high = torch.tensor([size / 2, size / 2, 8 * SPEED, 8 * SPEED], device=self.device)
        self.proprio_low = -self.proprio_high

    def initial(
        self,
        num_envs: int,
        generator: torch.Generator,
        variation: Variation | None = None,
        *,
        split: str = "train",
    ) -> State:
        """Draw B worlds: a maze of the split, default factors, the ball at rest in a cell that some goal is far from.

        The split "detour" is "eval" with the factor ``min_detour`` at 2.

        Factors in ``variation`` (one value, or one per world) replace the defaults; mazes given as ``walls`` are taken
        as they are, whatever the split, if their free cells are connected and few enough of them are wall.

        Raises:
            ValueError: unknown split or factor, a value outside ``variation_space``, mazes that are not connected or
                have too many walls, or in which no goal is far enough from any start.
        """
        check_choice("split", split, SPLITS)
        if split == "detour":
            split, variation = "eval", {"min_detour": DETOUR, **(variation or {})}
        given = resolve_variation(self.variation_space, variation, num_envs, self.device)
        if "walls" in given:
            self._check_walls(given["walls"].bool())
        state = self._draw_start(num_envs, generator, given, split)
        for _ in range(TRIES):
            is_wanting = ~self._far_cells(state).flatten(1).any(1)
            if not bool(is_wanting.any()):
                break
            worlds = is_wanting.nonzero()[:, 0]
            again = {name: value[worlds] for name, value in given.items()}
            drawn = self._draw_start(len(worlds), generator, again, split)
            state = {key: value.index_copy(0, worlds, drawn[key]) for key, value in state.items()}
        else:
            raise ValueError(
                f"a maze must have a goal {self.min_distance} cells from some start along the way, outside "
                f"success_radius, {self.success_radius}, and behind a detour of min_detour, got none in world "
                f"{int(worlds[0])}"
            )
        return {**state, **self._clock(num_envs, generator)}

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw a goal per world: the same maze and factors, at rest in a cell at least ``min_distance`` away.

        Raises:
            ValueError: a world has no such cell.
        """
        far = self._far_cells(state).flatten(1)
        if not bool(far.any(1).all()):
            raise ValueError(
                f"a world must have a cell {self.min_distance} cells away along the way and min_detour times as far as "
                f"it looks, got none in world {int((~far.any(1)).nonzero()[0, 0])}"
            )
        return self._at_rest(state, self._draw_place(far, GOAL_JITTER, generator))

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals at ``position (B, 2)`` or ``(2,)`` [cells], at rest.

        Raises:
            ValueError: a position is not finite, or the ball would be in a wall.
        """
        position = goal_positions(position, num_worlds(state), self.device)
        is_free = self.is_reachable(state, position)
        if not bool(is_free.all()):
            raise ValueError(
                f"a goal must lie in a free cell, {RADIUS} cells or more from its walls, got "
                f"{position[~is_free][0].tolist()}"
            )
        return self._at_rest(state, position)

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: the ball's centre is less than ``success_radius`` from the goal."""
        return (state["position"] - goal["position"]).norm(dim=-1) < self.success_radius

    def distance(self, state: State, goal: State) -> Tensor:
        """Return the length ``(B,)`` of the way to the goal [cells] over the centres of cells."""
        return mazes.way_to(state["walls"].bool(), state["position"], goal["position"])[1]

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the action ``(B, 2)`` along the way of :meth:`distance`."""
        target, _ = mazes.way_to(state["walls"].bool(), state["position"], goal["position"])
        return self.towards(state, target)

    def towards(self, state: State, position: Tensor) -> Tensor:
        """Return the action ``(B, 2)`` straight towards ``position (B, 2)``, whatever is in between."""
        velocity = clip_norm(EXPERT_GAIN * (position - state["position"]), SPEED)
        if self.actuation == "velocity":
            return (velocity / SPEED).clamp(-1.0, 1.0)
        force = DAMPING["force"] * velocity + (velocity - state["velocity"]) / EXPERT_LAG
        return (force / GAIN["force"]).clamp(-1.0, 1.0)

    def layout_id(self, state: State) -> Tensor:
        """Return int64 ``(B,)``, one number per maze."""
        return mazes.maze_number(state["walls"])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Corners ``x0, y0, x1, y1`` of the drawn world [cells]."""
        edge = self.size / 2 + 1.0
        return (-edge, -edge, edge, edge)

    def position(self, state: State) -> Tensor:
        """Return where the ball is, ``(B, 2)`` [cells]."""
        return state["position"].clone()

    def is_reachable(self, state: State, position: Tensor) -> Tensor:
        """Tell for each ``position (B, 2)`` [cells] whether the ball can be there, bool ``(B,)``."""
        boxes = self.wall_rectangles(state)
        nearest = torch.maximum(boxes[..., :2], torch.minimum(boxes[..., 2:], position[:, None]))
        clearance = (position[:, None] - nearest).norm(dim=-1).amin(1)
        inside = (position.abs() <= self.size / 2).all(-1)
        return inside & (clearance >= RADIUS - 1e-6)

    def wall_rectangles(self, state: State) -> Tensor:
        """Return the walls of each world ``(B, W, 4)`` of ``x0, y0, x1, y1`` [cells]; spare ones lie far outside."""
        centres, size = self.fields(state)["geom_pos"], self._own("geom_size")
        walls = self.layers["wall_color"]
        centres, half = centres[:, walls, :2], size[walls, :2]
        return torch.cat([centres - half, centres + half], -1)

    def fields(self, state: State) -> dict[str, Tensor]:
        """Return where the geoms of each world are, ``geom_pos (B, G, 3)``: walls in their cells, spare ones outside."""
        walls, most = state["walls"].flatten(1), mazes.max_walls(self.size)
        order = walls.sort(dim=1, descending=True, stable=True).indices[:, :most]  # wall cells first
        cells = torch.stack([order // self.size, order % self.size], -1)
        outside = PARKED + torch.arange(most, device=self.device)
        parked = torch.stack([outside, torch.zeros_like(outside)], -1)
        is_wall = walls.gather(1, order).bool()
        geom_pos = self._own("geom_pos").expand(num_worlds(state), -1, -1).clone()
        places = torch.where(is_wall[..., None], mazes.centre_of(cells, self.size), parked)
        geom_pos[:, self.layers["wall_color"][4:], :2] = places
        return {"geom_pos": geom_pos}

    def poses(self, state: State) -> tuple[Tensor, Tensor]:
        """Return centres ``(B, G, 3)`` and rotations ``(B, G, 3, 3)`` of the geoms; only the ball moves, none turns."""
        centres = self.fields(state)["geom_pos"]
        centres[:, self.layers["ball_color"][0], :2] = state["position"]
        return centres, torch.eye(3, device=self.device).expand(*centres.shape[:2], 3, 3)

    def _variation_space(self) -> spaces.Dict:
        """Add the maze, and how many times as long as the straight line a way has to be for a goal."""
        walls = spaces.Box(0, 1, (self.size, self.size), np.uint8)
        detour = spaces.Box(1.0, 4.0, (), np.float32)
        return spaces.Dict({"walls": walls, "min_detour": detour, **super()._variation_space().spaces})

    def _default_factors(self, num: int) -> State:
        return {"min_detour": torch.ones(num, device=self.device), **super()._default_factors(num)}

    def _draw_start(self, num: int, generator: torch.Generator, given: State, split: str) -> State:
        walls = given.get("walls")
        if walls is None:
            walls = self._draw_mazes(num, generator, split).to(self.device, torch.uint8)
        position = self._draw_place(~walls.bool().flatten(1), START_JITTER, generator)
        start = {"position": position, "velocity": torch.zeros_like(position)}
        return {**start, **self._default_factors(num), **given, "walls": walls}

    def _draw_mazes(self, num: int, generator: torch.Generator, split: str) -> Tensor:
        if split != "train" or self._mazes is None:
            return mazes.draw_mazes(num, self.size, generator, split)
        chosen = torch.randint(len(self._mazes), (num,), generator=generator, device=generator.device)
        return self._mazes[chosen.cpu()]

    def _draw_place(self, cells: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
        """Return a position ``(B, 2)`` in one of the cells ``(B, n * n)`` that are true."""
        weights = cells.to(generator.device, torch.float32)
        chosen = torch.multinomial(weights, 1, generator=generator)[:, 0].to(self.device)
        cell = torch.stack([chosen // self.size, chosen % self.size], -1)
        uniform = torch.rand((len(cells), 2), generator=generator, device=generator.device).to(self.device)
        return mazes.centre_of(cell, self.size) + jitter * (2.0 * uniform - 1.0)

    def _far_cells(self, state: State) -> Tensor:
        """Return the cells whose centre is ``min_distance`` or more away and not within reach, bool ``(B, n, n)``.

        The way to them is also at least ``min_detour`` times the straight line.
        """
        far = mazes.distances_to(state["walls"].bool(), state["position"])
        cells = torch.cartesian_prod(*[torch.arange(self.size, device=self.device)] * 2)
        centres = mazes.centre_of(cells, self.size).view(self.size, self.size, 2)
        straight = (centres - state["position"][:, None, None]).norm(dim=-1)
        is_within_reach = straight < self.success_radius + math.sqrt(2.0) * GOAL_JITTER
        is_behind = far >= state["min_detour"][:, None, None] * straight
        return torch.isfinite(far) & (far >= self.min_distance) & is_behind & ~is_within_reach

    def _check_walls(self, walls: Tensor) -> None:
        most = mazes.max_walls(self.size)
        if bool((walls.flatten(1).sum(1) > most).any()) or not bool(mazes.is_connected(walls).all()):
            raise ValueError(
                f"walls must be at most {most} cells and leave the others connected, got {walls.int().tolist()}"
            )
