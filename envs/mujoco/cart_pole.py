"""Cart-pole swing-up to a place: a cart on a rail that is to bring a hanging pole upright over a mark, by MuJoCo.

The swing-up of the DeepMind Control Suite (arXiv 1801.00690) with a goal: where the cart is to balance. The plane of the
pole is the plane of pictures, so gravity points along y.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from scipy.linalg import solve_discrete_are
from torch import Tensor
from torch.nn import functional as F

from envs.mujoco.renderer import camera_xml
from envs.mujoco.task import Factor, MujocoTask
from envs.simulator import goal_positions
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_positive, check_whole

RAIL = 1.5  # the cart's way to either side [m]
START, GOAL = 0.5, 1.0  # carts start, and goals lie, within these of the middle [m]
CART_MASS, POLE_MASS, POLE_LENGTH = 1.0, 0.1, 1.0  # [kg], [m]
FORCE = 12.0  # of a full action [N]
TIMESTEP, NUM_SUBSTEPS = 0.01, 5  # [s]
GRAVITY = 9.81  # [m/s^2]
HALF_WIDTH = 1.9  # of the picture [m]
GOAL_CANDIDATES = 64  # drawn per world, of which the first that is not solved is taken
HOLD = 10  # steps that a success has to last
UPRIGHT = 0.2  # [rad]
MOTION: dict[str, list[float]] = {  # how it is shown -> bounds of that
    "velocity": [40.0, 200.0],
    "history": [2 * RAIL, 1.0, 1.0],
    "nothing": [],
}


class CartPole(MujocoTask):
    """Simulator of cart-pole swing-up; see :class:`envs.simulator.Simulator` for the contract.

    An action is the force on the cart, ``(1,)`` in [-1, 1] of 12 N. ``position`` is the cart's place [m] and the pole's
    angle from upright [rad], which is not wrapped. ``recent (B, 10, 2)`` has the positions of the last ten steps.

    Args:
        motion: how ``proprio`` shows what moves: by "velocity", by "history", which is the step before, or by "nothing".
        positions_in_proprio: show the cart's place and the pole's angle in ``proprio``; without, which the motion
            "velocity" alone allows, pictures alone show them.
        success_radius: how far the cart may be from its goal [m], the pole within .2 rad of upright, for ten steps.
        image_size: pixels per side.
        render_backend: who draws ``pixels``: "raster", batched, or "mujoco", which needs an OpenGL context.
        max_steps: episode length of the Gymnasium environments.
        device: where states live. Physics runs on the CPU.
    """

    env_id = "worldmodel/CartPole-v0"
    colours = {  # noqa: RUF012
        "background_color": (245, 243, 238),
        "rail_color": (170, 174, 180),
        "pole_color": (214, 40, 40),
        "cart_color": (38, 50, 72),
    }
    drawn_sizes = {"pole_size": "pole_color", "cart_size": "cart_color"}  # noqa: RUF012
    physical = {  # noqa: RUF012
        "gain": Factor(0.5, 2.0, ("actuator_gainprm",)),
        "mass": Factor(0.25, 4.0, ("body_mass", "body_inertia")),
        "damping": Factor(0.25, 4.0, ("dof_damping",)),
        "pole_length": Factor(0.6, 1.4),
    }

    def __init__(
        self,
        *,
        motion: str = "velocity",
        positions_in_proprio: bool = True,
        success_radius: float = 0.15,
        image_size: int = 64,
        render_backend: str = "raster",
        max_steps: int = 120,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("motion", motion, tuple(MOTION))
        self.motion, self.success_radius, self.max_steps = motion, float(success_radius), int(max_steps)
        self.positions_in_proprio = bool(positions_in_proprio)
        if not self.positions_in_proprio and motion != "velocity":
            raise ValueError(
                f"motion must be 'velocity' where proprioception shows no positions, got {motion!r}"
            )
        check_positive("success_radius", self.success_radius)
        check_whole("max_steps", self.max_steps, at_least=1)
        super().__init__(
            _model_xml,
            num_substeps=NUM_SUBSTEPS,
            half_width=HALF_WIDTH,
            layers={
                "background_color": ["background"],
                "rail_color": ["rail"],
                "cart_color": ["cart"],
                "pole_color": ["pole"],
            },
            image_size=image_size,
            render_backend=render_backend,
            device=device,
        )
        high = [*([2 * RAIL, 1.0, 1.0] if self.positions_in_proprio else []), *MOTION[motion]]
        self.proprio_high = torch.tensor(high, device=self.device)
        self.proprio_low, self.proprio_dim = -self.proprio_high, len(high)

    def _start(self, factors: State, generator: torch.Generator) -> State:
        """Draw carts near the middle, the pole hanging, up to .1 rad askew."""
        hanging = torch.tensor([0.0, math.pi], device=self.device)
        spread = torch.tensor([START, 0.1], device=self.device)
        return self._standing({}, hanging + spread * self._uniform((len(factors["gain"]), 2), generator))

    def transition(self, state: State, action: Tensor) -> State:
        """Push for .05 s; see :meth:`envs.mujoco.task.MujocoTask.transition`."""
        after = super().transition(state, action)
        recent = torch.cat([state["recent"][:, 1:], after["position"][:, None]], 1)
        return {**after, "recent": recent}

    def proprio(self, state: State) -> Tensor:
        """Return place [m], cosine and sine of the pole's angle, and velocities [m/s], [rad/s], ``(B, 5)``.

        With the motion "history", the same of the step before in the place of velocities, ``(B, 6)``; with "nothing",
        ``(B, 3)``. Without positions, velocities alone, ``(B, 2)``.
        """
        if not self.positions_in_proprio:
            return state["velocity"]

        def seen(position: Tensor) -> list[Tensor]:
            return [position[:, :1], position[:, 1:].cos(), position[:, 1:].sin()]

        shown = {"velocity": [state["velocity"]], "history": seen(state["recent"][:, -2]), "nothing": []}
        return torch.cat([*seen(state["position"]), *shown[self.motion]], 1)

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw a place per world where the cart is to stand still under the upright pole, other than where it does.

        Raises:
            ValueError: none of the candidates is elsewhere (``success_radius`` covers the rail).
        """
        place = GOAL * self._uniform((num_worlds(state), GOAL_CANDIDATES, 1), generator)
        candidates = torch.cat([place, torch.zeros_like(place)], -1)  # (B, K, 2)
        is_solved = self._is_near(state["position"][:, None], candidates)
        return self._standing(state, self._first_unsolved(candidates, is_solved))

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals with cart and pole at ``position (B, 2)`` or ``(2,)`` [m], [rad], at rest.

        Only an upright or a hanging pole can be held; other angles are taken as they are, to start from.

        Raises:
            ValueError: a place is not finite or beyond the rail.
        """
        position = goal_positions(position, num_worlds(state), self.device)
        is_free = torch.isfinite(position).all(-1) & (position[:, 0].abs() <= RAIL)
        if not bool(is_free.all()):
            raise ValueError(
                f"a goal's place must lie on the rail, within {RAIL} m, got {position[~is_free][0].tolist()}"
            )
        return self._standing(state, position)

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: for ten steps the cart was at its goal and the pole as the goal has it."""
        return self._is_near(state["recent"], goal["position"][:, None]).all(1)

    def distance(self, state: State, goal: State) -> Tensor:
        """Return ``(B,)``: the cart's distance [m], plus the height that the tip lacks [m], plus a tenth of the speeds.

        Of a shortest path under inertia and a bounded force there is no formula; this is zero at the goal alone.
        """
        place, tilt = self._deviation(state["position"], goal["position"])
        height = POLE_LENGTH * state["pole_length"] * (1.0 - tilt.cos())
        speed = (state["velocity"] - goal["velocity"]).abs()
        return place.abs() + height + 0.1 * speed.sum(1)

    def seen_distance(self, proprio: Tensor, goal: Tensor) -> Tensor:
        """Return :meth:`distance` ``(...)`` from ``proprio (..., 5)`` to the goal's, of a pole of the usual length.

        Raises:
            ValueError: proprioception shows no velocity, or no positions.
        """
        if not self.positions_in_proprio:
            raise ValueError(
                "positions_in_proprio must be true for proprioception to show the distance, got false"
            )
        if self.motion != "velocity":
            raise ValueError(
                f"motion must be 'velocity' for proprioception to show the distance, got {self.motion!r}"
            )
        height = 1.0 - F.cosine_similarity(proprio[..., 1:3], goal[..., 1:3], dim=-1)
        speed = (proprio[..., 3:] - goal[..., 3:]).abs()
        return (proprio[..., 0] - goal[..., 0]).abs() + height + 0.1 * speed.sum(-1)

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the force ``(B, 1)``: pump energy while the pole is low, balance it when it is up.

        Energy by Astrom & Furuta 2000 (Automatica 36), balance by a linear-quadratic regulator.
        """
        place, tilt = self._deviation(state["position"], goal["position"])
        speed, spin = state["velocity"].unbind(1)
        deviation = torch.stack([place.clamp(-0.6, 0.6), tilt, speed, spin], 1)
        factor = state["pole_length"]
        lengths, which = factor.unique(return_inverse=True)
        gains = np.concatenate([_balance_gain(length) for length in lengths.tolist()])
        balance = -(deviation * torch.from_numpy(gains).float().to(self.device)[which]).sum(1)
        # 0 where it just gets up
        energy = 0.5 * spin.square() - 1.5 * GRAVITY / (POLE_LENGTH * factor) * (1.0 - tilt.cos())
        pump = 0.06 * energy * spin * tilt.cos() - 0.4 * state["position"][:, 0] - 0.3 * speed
        is_up = (tilt.abs() < 0.5) & (spin.abs() < 4.0)
        return torch.where(is_up, balance, pump).clamp(-1.0, 1.0)[:, None]

    def layout_id(self, state: State) -> Tensor:
        """Return int64 zeros ``(B,)``: the world has one layout."""
        return torch.zeros_like(state["seed"])

    def _standing(self, state: State, position: Tensor) -> State:
        recent = position[:, None].expand(-1, HOLD, -1).clone()
        return {**self._at_rest(state, position), "recent": recent}

    def _is_near(self, position: Tensor, goal: Tensor) -> Tensor:
        place, tilt = self._deviation(position, goal)
        return (place.abs() < self.success_radius) & (tilt.abs() < UPRIGHT)

    def _deviation(self, position: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far the cart is from its goal [m], and the pole, in (-pi, pi] [rad]."""
        place, tilt = (position - goal).unbind(-1)
        return place, torch.remainder(tilt + math.pi, 2.0 * math.pi) - math.pi


@functools.cache
def _balance_gain(pole_length: float) -> np.ndarray:
    """Return the gain ``(1, 4)`` of the linear-quadratic regulator around upright, on place, tilt, speed, spin."""
    length = POLE_LENGTH * pole_length
    total, half = CART_MASS + POLE_MASS, length / 2
    inertia = length * (4.0 / 3.0 - POLE_MASS / total) / 2
    lean = POLE_MASS * half / (total * inertia) * GRAVITY
    drift = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [0, -lean, 0, 0], [0, GRAVITY / inertia, 0, 0]], float)
    push = np.array(
        [[0], [0], [(1 + POLE_MASS * half / (total * inertia)) / total], [-1 / (total * inertia)]]
    )
    step = TIMESTEP * NUM_SUBSTEPS
    a = np.eye(4) + step * drift + step**2 / 2 * drift @ drift
    b = FORCE * (step * push + step**2 / 2 * drift @ push)
    cost = solve_discrete_are(a, b, np.diag([4.0, 4.0, 0.2, 0.2]), np.array([[2.0]]))
    return np.linalg.solve(b.T @ cost @ b + 2.0, b.T @ cost @ a)


def _model_xml(pole_length: float = 1.0) -> str:
    return f"""<mujoco model="cart pole">
<option timestep="{TIMESTEP}" integrator="implicitfast" jacobian="dense" gravity="0 {GRAVITY} 0"/>
<visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
<default><geom contype="0" conaffinity="0"/></default>
<worldbody>
{camera_xml(HALF_WIDTH)}
<geom name="background" type="box" pos="0 0 5" size="10 10 .1"/>
<geom name="rail" type="box" pos="0 0 1" size="{RAIL + 0.2} .03 .01"/>
<body name="cart"><joint name="cart" type="slide" axis="1 0 0" limited="true" range="-{RAIL} {RAIL}" damping=".05"/>
  <geom name="cart" type="box" size=".2 .1 .1" mass="{CART_MASS}"/>
  <body name="pole" pos="0 0 -.3"><joint name="pole" type="hinge" axis="0 0 1" damping=".001"/>
    <geom name="pole" type="capsule" fromto="0 0 0 0 -{pole_length * POLE_LENGTH} 0" size=".05" mass="{POLE_MASS}"/>
  </body>
</body>
</worldbody>
<actuator><motor joint="cart" gear="{FORCE}" ctrlrange="-1 1"/></actuator>
</mujoco>"""
