"""PointMaze: a ball that rolls through random mazes, by MuJoCo.

The task of the point mazes of D4RL (arXiv 2004.07219) and PLDM (arXiv 2502.14819) on a model of our own: unit cells and a
ball of radius .2 on two slides, actuated by velocity or by force. Mazes are random and connected; training and evaluation
share none. y points down, as in pictures.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.hashing import hash_normal
from envs.mujoco import mazes
from envs.mujoco.physics import Physics
from envs.mujoco.point_maze_model import DAMPING, GAIN, NUM_SUBSTEPS, PARKED, RADIUS, SPEED, model_xml
from envs.mujoco.raster import Rasteriser, View
from envs.mujoco.renderer import MujocoRenderer
from envs.simulator import VectorLayout, check_action_shape, clip_norm, goal_positions
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_positive, check_whole
from envs.variation import Variation, resolve_variation

START_JITTER, GOAL_JITTER = (
    0.3,
    0.2,
)  # around a cell's centre; no goal is within reach across a corner [cells]
MIN_DISTANCE = {5: 3.0, 7: 6.0}  # from start to goal along the way, by size [cells]
MAX_STEPS = {5: 100, 7: 150}
TRIES = 100  # redraws of mazes and starts that no goal is far enough from
EXPERT_GAIN = 5.0  # velocity per distance [1/s]
EXPERT_LAG = 0.1  # in which forces are to correct a velocity [s]
NUM_SEEDS = 2**24  # seeds stay exact in a float32 state vector

PHYSICAL = {"mass": (0.25, 4.0), "gain": (0.25, 2.0), "damping": (0.25, 4.0)}  # factors on the model's own
COLORS: dict[str, tuple[int, int, int]] = {
    "ball_color": (214, 40, 40),
    "wall_color": (38, 50, 72),
    "background_color": (245, 243, 238),
}


class PointMaze:
    """Simulator of PointMaze; see :class:`envs.simulator.Simulator` for the contract.

    Actions are ``(2,)`` in [-1, 1]: shares of the largest velocity, 4 cells/s, or of the force that leads to it.

    Args:
        size: 5 or 7 cells per side, without the border.
        num_mazes: how many mazes the split "train" has; None gives every episode a maze of its own. "eval" always does.
        actuation: "velocity" (reached within .1 s) or "force" (within .5 s).
        image_size: pixels per side.
        render_backend: who draws ``pixels``: "raster", batched, or "mujoco", which needs an OpenGL context.
        min_distance: of a goal from the start along the way [cells]; None takes 3 for size 5 and 6 for size 7.
        success_radius: a goal is reached below this distance between the centres [cells].
        max_steps: episode length of the Gymnasium environments; None takes 100 and 150.
        device: where states live. Physics runs on the CPU.
    """

    env_id = "worldmodel/PointMaze-v0"
    action_dim = 2
    proprio_dim = 4
    max_action_norm: float | None = None

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
        check_choice("render_backend", render_backend, ("raster", "mujoco"))
        check_whole("image_size", image_size, at_least=16)
        if size not in MIN_DISTANCE:
            raise ValueError(f"size must be one of {', '.join(map(str, MIN_DISTANCE))}, got {size}")
        self.size, self.actuation, self.image_size = int(size), actuation, int(image_size)
        self.num_mazes = num_mazes
        self._mazes: Tensor | None = None  # (num_mazes, n, n) bool, the same in every process
        if num_mazes is not None:
            check_whole("num_mazes", num_mazes, at_least=1)
            fixed = torch.Generator().manual_seed(0)
            self._mazes = mazes.draw_mazes(num_mazes, self.size, fixed, "train")
        self.render_backend = render_backend
        self.min_distance = float(MIN_DISTANCE[size] if min_distance is None else min_distance)
        self.max_steps = int(MAX_STEPS[size] if max_steps is None else max_steps)
        self.success_radius = float(success_radius)
        check_positive("min_distance", self.min_distance)
        check_positive("success_radius", self.success_radius)
        check_whole("max_steps", self.max_steps, at_least=1)
        self.device = torch.device(device)
        self.action_low = torch.full((2,), -1.0, device=self.device)
        self.action_high = torch.full((2,), 1.0, device=self.device)
        self.proprio_high = torch.tensor([size / 2, size / 2, 3 * SPEED, 3 * SPEED], device=self.device)
        self.proprio_low = -self.proprio_high
        self.pixels_shape = (3, self.image_size, self.image_size)
        self.variation_space = _variation_space(self.size)
        self.view = _view(self.size, self.image_size)
        self.model, self._draw, self._layers = _build(self.size, actuation, self.image_size)
        self._plain = Physics(self.model, NUM_SUBSTEPS, ("geom_pos",))
        varied = ("geom_pos", "body_mass", "actuator_gainprm", "dof_damping")
        self._varied = Physics(self.model, NUM_SUBSTEPS, varied)
        self._renderer: MujocoRenderer | None = None
        self._vector = VectorLayout(self.initial(1, torch.Generator().manual_seed(0)))
        self.state_dim = self._vector.dim

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this simulator, on any device; JSON-able."""
        names = (
            "size",
            "num_mazes",
            "actuation",
            "image_size",
            "render_backend",
            "min_distance",
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
        """Draw B worlds: a maze of the split, default factors, the ball at rest in a cell that some goal is far from.

        Factors in ``variation`` (one value, or one per world) replace the defaults; mazes given as ``walls`` are taken
        as they are, whatever the split.

        Raises:
            ValueError: unknown split or factor, a value outside ``variation_space``, mazes that are not connected or
                have too many walls, or in which no goal is far enough from any start.
        """
        check_choice("split", split, mazes.SPLITS)
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
                f"a maze must have a goal {self.min_distance} cells from some start along the way, got none in world "
                f"{int(worlds[0])}"
            )
        seed = torch.randint(NUM_SEEDS, (num_envs,), generator=generator, device=generator.device)
        step = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        return {**state, "seed": seed.to(self.device), "step": step}

    def transition(self, state: State, action: Tensor) -> State:
        """Act for .05 s; ``action (B, 2)`` is clipped to [-1, 1], noise is added before.

        Raises:
            ArithmeticError: the simulation became unstable.
        """
        check_action_shape(action, num_worlds(state), 2)
        if bool((state["action_noise"] > 0).any()):
            noise = hash_normal(state["seed"], state["step"], 2)
            action = action + state["action_noise"][:, None] * noise
        action = action.clamp(-1.0, 1.0)
        is_varied = any(bool((state[name] != 1.0).any()) for name in PHYSICAL)
        physics = self._varied if is_varied else self._plain
        fields = {name: values for name, values in self._fields(state).items() if name in physics.fields}
        position, velocity = physics.step(state["position"], state["velocity"], action, fields)
        return {**state, "position": position, "velocity": velocity, "step": state["step"] + 1}

    def observation(self, state: State) -> dict[str, Tensor]:
        """Return ``pixels`` uint8 ``(B, 3, S, S)`` and ``proprio``: position [cells], velocity [cells/s], ``(B, 4)``."""
        return {"pixels": self.pixels(state), "proprio": self.proprio(state)}

    def pixels(self, state: State) -> Tensor:
        """Return uint8 ``(B, 3, S, S)``, by the rasteriser or by MuJoCo."""
        if self.render_backend == "raster":
            return self._draw(*self._poses(state), {name: state[name] for name in COLORS})
        if self._renderer is None:
            self._renderer = MujocoRenderer(self.model, self.image_size)
        fields = {key: value.cpu().double().numpy() for key, value in self._fields(state).items()}
        position = state["position"].cpu().double().numpy()
        colours = {name: state[name].cpu().numpy() / 255.0 for name in COLORS}

        def prepare(world: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
            model.geom_pos[:] = fields["geom_pos"][world]
            for name, geoms in self._layers.items():
                model.geom_rgba[geoms, :3] = colours[name][world]
            data.qpos[:] = position[world]

        return self._renderer(num_worlds(state), prepare).to(self.device)

    def proprio(self, state: State) -> Tensor:
        """Return position [cells] and velocity [cells/s], ``(B, 4)``."""
        return torch.cat([state["position"], state["velocity"]], 1)

    def picture(self, state: State, image_size: int = 256) -> Tensor:
        """Return colour images for people, uint8 ``(B, image_size, image_size, 3)``."""
        draw = _rasteriser(self.model, self.size, image_size)
        return (
            draw(*self._poses(state), {name: state[name] for name in COLORS}).permute(0, 2, 3, 1).contiguous()
        )

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw a goal per world: the same maze and factors, at rest in a cell at least ``min_distance`` away.

        Raises:
            ValueError: a world has no such cell.
        """
        far = self._far_cells(state).flatten(1)
        if not bool(far.any(1).all()):
            raise ValueError(
                f"a world must have a cell {self.min_distance} cells away along the way, got none in world "
                f"{int((~far.any(1)).nonzero()[0, 0])}"
            )
        return self._put(state, self._draw_place(far, GOAL_JITTER, generator))

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
        return self._put(state, position)

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

    def state_vector(self, state: State) -> Tensor:
        """Return the whole state as float32 ``(B, S)``."""
        return self._vector.pack(state)

    def state_from_vector(self, vector: Tensor) -> State:
        """Invert :meth:`state_vector` exactly."""
        return self._vector.unpack(vector.to(self.device))

    def factors(self, state: State) -> dict[str, Tensor]:
        """Return the factors of variation per world, ``(B, ...)``."""
        return {name: state[name].clone() for name in self.variation_space}

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
        centres, size = self._fields(state)["geom_pos"], torch.from_numpy(self.model.geom_size).float()
        walls = self._layers["wall_color"]
        centres, half = centres[:, walls, :2], size[walls, :2].to(self.device)
        return torch.cat([centres - half, centres + half], -1)

    def _put(self, state: State, position: Tensor) -> State:
        return {**state, "position": position, "velocity": torch.zeros_like(position)}

    def _draw_start(
        self, num: int, generator: torch.Generator, given: dict[str, Tensor], split: str
    ) -> State:
        defaults: dict[str, Any] = {**dict.fromkeys(PHYSICAL, 1.0), "action_noise": 0.0, **COLORS}
        state = {
            name: torch.as_tensor(value, dtype=torch.uint8 if name in COLORS else torch.float32)
            .to(self.device)
            .expand(num, *np.shape(value))
            .clone()
            for name, value in defaults.items()
        }
        walls = given.get("walls")
        if walls is None:
            walls = self._draw_mazes(num, generator, split).to(self.device, torch.uint8)
        position = self._draw_place(~walls.bool().flatten(1), START_JITTER, generator)
        return self._put(
            {"position": position, "velocity": position, **state, **given, "walls": walls}, position
        )

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
        """Return the cells whose centre is ``min_distance`` or more away, bool ``(B, n, n)``."""
        far = mazes.distances_to(state["walls"].bool(), state["position"])
        return torch.isfinite(far) & (far >= self.min_distance)

    def _check_walls(self, walls: Tensor) -> None:
        most = mazes.max_walls(self.size)
        if bool((walls.flatten(1).sum(1) > most).any()) or not bool(mazes.is_connected(walls).all()):
            raise ValueError(
                f"walls must be at most {most} cells and leave the others connected, got {walls.int().tolist()}"
            )

    def _fields(self, state: State) -> dict[str, Tensor]:
        """Return the model's fields that differ between worlds, float32 ``(B, ...)``."""
        num = num_worlds(state)

        def own(name: str) -> Tensor:
            return torch.from_numpy(np.asarray(getattr(self.model, name), np.float32)).to(self.device)

        walls, most = state["walls"].flatten(1), mazes.max_walls(self.size)
        order = walls.sort(dim=1, descending=True, stable=True).indices[:, :most]  # wall cells first
        cells = torch.stack([order // self.size, order % self.size], -1)
        places = mazes.centre_of(cells, self.size)
        parked = torch.stack(
            [PARKED + torch.arange(most, device=self.device), torch.zeros(most, device=self.device)], -1
        )
        is_wall = walls.gather(1, order).bool()
        geom_pos = own("geom_pos").expand(num, -1, -1).clone()
        geom_pos[:, self._layers["wall_color"][4:], :2] = torch.where(is_wall[..., None], places, parked)
        return {
            "geom_pos": geom_pos,
            "body_mass": own("body_mass") * state["mass"][:, None],
            "actuator_gainprm": own("actuator_gainprm") * state["gain"][:, None, None],
            "dof_damping": own("dof_damping") * state["damping"][:, None],
        }

    def _poses(self, state: State) -> tuple[Tensor, Tensor]:
        """Return centres ``(B, G, 3)`` and rotations ``(B, G, 3, 3)`` of the geoms; only the ball moves, none turns."""
        centres = self._fields(state)["geom_pos"]
        centres[:, self._layers["ball_color"][0], :2] = state["position"]
        return centres, torch.eye(3, device=self.device).expand(*centres.shape[:2], 3, 3)


def _build(
    size: int, actuation: str, image_size: int
) -> tuple[mujoco.MjModel, Rasteriser, dict[str, list[int]]]:
    """Return the model, who draws it, and the geoms of each colour (of the walls: the border's four first)."""
    model = mujoco.MjModel.from_xml_string(model_xml(size, actuation, _view(size, image_size)))
    return model, _rasteriser(model, size, image_size), _geoms(model, size)


def _geoms(model: mujoco.MjModel, size: int) -> dict[str, list[int]]:
    names = [f"border{side}" for side in range(4)] + [
        f"wall{number}" for number in range(mazes.max_walls(size))
    ]
    return {
        "background_color": [model.geom("background").id],
        "wall_color": [model.geom(name).id for name in names],
        "ball_color": [model.geom("ball").id],
    }


def _view(size: int, image_size: int) -> View:
    return View(image_size, size / 2 + 1.0)


def _rasteriser(model: mujoco.MjModel, size: int, image_size: int) -> Rasteriser:
    layers = {name: geoms for name, geoms in _geoms(model, size).items() if name != "background_color"}
    return Rasteriser(model, _view(size, image_size), layers)


def _variation_space(size: int) -> spaces.Dict:
    factors: dict[str, spaces.Space[Any]] = {"walls": spaces.Box(0, 1, (size, size), np.uint8)}
    factors |= {name: spaces.Box(low, high, (), np.float32) for name, (low, high) in PHYSICAL.items()}
    factors["action_noise"] = spaces.Box(0.0, 1.0, (), np.float32)
    factors |= {name: spaces.Box(0, 255, (3,), np.uint8) for name in COLORS}
    return spaces.Dict(factors)
