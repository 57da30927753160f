"""Reacher: an arm of two links that is to take a configuration shown as a picture, by MuJoCo.

The links of Gymnasium's Reacher (.1 and .11 m) on a model of our own, without gravity or contacts. A goal is a
configuration of the joints, not a place of the fingertip: noise alone passes within .05 m of that in a third of the
episodes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.mujoco.renderer import camera_xml
from envs.mujoco.task import Factor, MujocoTask
from envs.simulator import goal_positions
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_positive, check_whole

LINKS = (0.1, 0.11)  # lengths [m]
RADIUS = 0.016  # of the links [m]
LIMIT = math.radians(160.0)  # of either joint
MARGIN = math.radians(10.0)  # that starts and goals keep from the limit
TIMESTEP, NUM_SUBSTEPS = 0.01, 5  # [s]
TORQUE, DAMPING = 0.06, 0.01  # of a full action [N m]; 6 rad/s at most [N m s]
ARMATURE = 2e-4  # [kg m^2]
HALF_WIDTH = 0.25  # of the picture [m]
SPEED = TORQUE / DAMPING  # [rad/s]
EXPERT_GAIN, EXPERT_DAMPING = 3.0, 0.15  # action per distance [1/rad] and per velocity [s/rad]
DEFAULT_RADIUS = {"joints": 0.05, "fingertip": 0.015}  # [rad], [m]
GOAL_CANDIDATES = 64  # drawn per world, of which the first that is not solved is taken


class Reacher(MujocoTask):
    """Simulator of Reacher; see :class:`envs.simulator.Simulator` for the contract.

    Actions are torques ``(2,)``, in [-1, 1] of the largest. ``position`` is the joints' angles [rad].

    Args:
        criterion: what has to be where the goal has it: both "joints", or the "fingertip".
        positions_in_proprio: show the joints' angles in ``proprio``; without, pictures alone show them.
        success_radius: the largest error of either joint [rad], or of the fingertip [m]; None takes .05 and .015.
        image_size: pixels per side.
        render_backend: who draws ``pixels``: "raster", batched, or "mujoco", which needs an OpenGL context.
        max_steps: episode length of the Gymnasium environments.
        device: where states live. Physics runs on the CPU.
    """

    env_id = "worldmodel/Reacher-v0"
    colours = {"background_color": (245, 243, 238), "arm_color": (38, 50, 72), "tip_color": (214, 40, 40)}  # noqa: RUF012
    drawn_sizes = {"arm_size": "arm_color"}  # noqa: RUF012
    physical = {  # noqa: RUF012
        "gain": Factor(0.25, 2.0, ("actuator_gainprm",)),
        "damping": Factor(0.25, 4.0, ("dof_damping",)),
        "mass": Factor(0.25, 4.0, ("body_mass", "body_inertia")),
        "link_length": Factor(0.6, 1.1),
    }

    def __init__(
        self,
        *,
        criterion: str = "joints",
        positions_in_proprio: bool = True,
        success_radius: float | None = None,
        image_size: int = 64,
        render_backend: str = "raster",
        max_steps: int = 50,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("criterion", criterion, tuple(DEFAULT_RADIUS))
        self.criterion, self.max_steps = criterion, int(max_steps)
        self.positions_in_proprio = bool(positions_in_proprio)
        self.success_radius = float(DEFAULT_RADIUS[criterion] if success_radius is None else success_radius)
        check_positive("success_radius", self.success_radius)
        check_whole("max_steps", self.max_steps, at_least=1)
        super().__init__(
            _model_xml,
            num_substeps=NUM_SUBSTEPS,
            half_width=HALF_WIDTH,
            layers={
                "background_color": ["background"],
                "arm_color": ["upper", "lower"],
                "tip_color": ["tip"],
            },
            image_size=image_size,
            render_backend=render_backend,
            device=device,
        )
        far, fast = LIMIT + 0.6, 12 * SPEED  # limits are soft, most of all for a light arm
        bound = [*([far, far] if self.positions_in_proprio else []), fast, fast]
        self.proprio_high = torch.tensor(bound, device=self.device)
        self.proprio_low, self.proprio_dim = -self.proprio_high, len(bound)

    def _start(self, factors: State, generator: torch.Generator) -> State:
        return self._at_rest(
            {}, self._uniform((len(factors["link_length"]), 2), generator) * (LIMIT - MARGIN)
        )

    def proprio(self, state: State) -> Tensor:
        """Return angles [rad] and velocities [rad/s] of the joints, ``(B, 4)``; of velocities alone ``(B, 2)``."""
        return super().proprio(state) if self.positions_in_proprio else state["velocity"]

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw another configuration per world, at rest, of the same factors, that is not solved.

        Raises:
            ValueError: none of the candidates is unsolved (``success_radius`` covers nearly everything).
        """
        shape = (num_worlds(state), GOAL_CANDIDATES, 2)
        candidates = self._uniform(shape, generator) * (LIMIT - MARGIN)
        is_solved = (
            self._error(state["position"][:, None], candidates, state["link_length"][:, None])
            < self.success_radius
        )
        return self._at_rest(state, self._first_unsolved(candidates, is_solved))

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals at angles ``position (B, 2)`` or ``(2,)`` [rad], at rest.

        Raises:
            ValueError: an angle is not finite or beyond the limit of 160 degrees.
        """
        position = goal_positions(position, num_worlds(state), self.device)
        is_free = (position.abs() <= LIMIT).all(-1)
        if not bool(is_free.all()):
            raise ValueError(
                f"a goal's angles must lie within {LIMIT:.3f} rad, got {position[~is_free][0].tolist()}"
            )
        return self._at_rest(state, position)

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: both joints, or the fingertip, are nearer to the goal than ``success_radius``."""
        return self._error(state["position"], goal["position"], state["link_length"]) < self.success_radius

    def distance(self, state: State, goal: State) -> Tensor:
        """Return the length ``(B,)`` of the straight way in joint space [rad]."""
        return (state["position"] - goal["position"]).norm(dim=-1)

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the torques ``(B, 2)`` of a damped spring at each joint."""
        error = goal["position"] - state["position"]
        return (EXPERT_GAIN * error - EXPERT_DAMPING * state["velocity"]).clamp(-1.0, 1.0)

    def fingertip(self, position: Tensor) -> Tensor:
        """Return where the fingertip of an arm of the usual length is ``(..., 2)`` [m], for angles ``(..., 2)`` [rad]."""
        angle = position.cumsum(-1)  # of the links in the plane
        x = LINKS[0] * angle[..., 0].cos() + LINKS[1] * angle[..., 1].cos()
        y = LINKS[0] * angle[..., 0].sin() + LINKS[1] * angle[..., 1].sin()
        return torch.stack([x, y], -1)

    def layout_id(self, state: State) -> Tensor:
        """Return int64 zeros ``(B,)``: the world has one layout."""
        return torch.zeros_like(state["seed"])

    def _error(self, position: Tensor, goal: Tensor, link_length: Tensor) -> Tensor:
        """Return what has to be below ``success_radius``, ``(B,)``."""
        if self.criterion == "joints":
            return (position - goal).abs().amax(-1)
        return link_length * (self.fingertip(position) - self.fingertip(goal)).norm(dim=-1)


def _model_xml(link_length: float = 1.0) -> str:
    joint = (
        f'type="hinge" axis="0 0 1" limited="true" range="-160 160" damping="{DAMPING}" armature="{ARMATURE}"'
    )
    upper, lower = (link_length * length for length in LINKS)
    return f"""<mujoco model="reacher">
<compiler angle="degree"/>
<option timestep="{TIMESTEP}" integrator="implicitfast" jacobian="dense" gravity="0 0 0"/>
<visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
<default><geom contype="0" conaffinity="0" density="1000"/></default>
<worldbody>
{camera_xml(HALF_WIDTH)}
<geom name="background" type="box" pos="0 0 5" size="2 2 .1"/>
<body name="upper"><joint name="shoulder" {joint}/>
  <geom name="upper" type="capsule" fromto="0 0 0 {upper} 0 0" size="{RADIUS}"/>
  <body name="lower" pos="{upper} 0 0"><joint name="elbow" {joint}/>
    <geom name="lower" type="capsule" fromto="0 0 0 {lower} 0 0" size="{RADIUS}"/>
    <geom name="tip" type="sphere" pos="{lower} 0 -.05" size="{RADIUS}" mass="0"/>
  </body>
</body>
</worldbody>
<actuator>
  <motor joint="shoulder" gear="{TORQUE}" ctrlrange="-1 1"/>
  <motor joint="elbow" gear="{TORQUE}" ctrlrange="-1 1"/>
</actuator>
</mujoco>"""
