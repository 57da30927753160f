"""Push-T: a disc that pushes a T-shaped block to a pose shown as a picture, by MuJoCo.

The task of Diffusion Policy (arXiv 2303.04137) and DINO-WM (arXiv 2411.04983) on a model of our own: the block has two
slides and a hinge with dry friction, so that it stays where it is left, and the pusher is a sphere, whose contacts do not
depend on the version of MuJoCo as those of cylinders do. The arena of 512 pixels there is 2 wide here, y downwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.mujoco.renderer import camera_xml
from envs.mujoco.task import Factor, MujocoTask
from envs.simulator import clip_norm
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_positive, check_whole

PIXEL = 1.0 / 256.0  # of the original arena
BAR = (60 * PIXEL, 15 * PIXEL)  # half sizes of the T's bar
STEM = (15 * PIXEL, 45 * PIXEL)  # and of its stem
RADIUS = 15 * PIXEL  # of the pusher
TIMESTEP, NUM_SUBSTEPS = 0.01, 10  # [s]
SPEED, KV = 1.0, 50.0  # of the pusher at full action [1/s]; its actuators' gain [kg/s]
PUSHER_RANGE, BLOCK_RANGE, BLOCK_START = 1.0 - RADIUS, 0.75, 0.5  # from the middle
SHIFT, TURN = 0.4, math.pi / 3  # a goal is at most this far from where the block begins
ANGLE = math.pi / 9  # tolerated
TRIES = 64  # draws per world, of which the first valid one is taken
CLEARANCE = 0.06  # between pusher and block at the start
CRITERIA = ("block", "both")


class PushT(MujocoTask):
    """Simulator of Push-T; see :class:`envs.simulator.Simulator` for the contract.

    Actions are the pusher's velocity ``(2,)`` in [-1, 1] of 1 per second. ``position (B, 5)`` is the pusher's place, the
    block's place and its angle [rad], which is not wrapped.

    Args:
        criterion: what has to be where the goal has it: the "block", or "both", pusher and block.
        block_in_proprio: add place, cosine and sine of the block to ``proprio``, for agents that see no pictures.
        success_radius: how far a place may be from the goal's; the block's angle may be 20 degrees off.
        image_size: pixels per side.
        render_backend: who draws ``pixels``: "raster", batched, or "mujoco", which needs an OpenGL context.
        max_steps: episode length of the Gymnasium environments.
        device: where states live. Physics runs on the CPU.
    """

    env_id = "worldmodel/PushT-v0"
    colours = {  # noqa: RUF012
        "background_color": (245, 243, 238),
        "block_color": (38, 50, 72),
        "pusher_color": (214, 40, 40),
    }
    drawn_sizes = {"block_size": "block_color", "pusher_size": "pusher_color"}  # noqa: RUF012
    physical = {  # noqa: RUF012
        "gain": Factor(0.5, 1.5, ("actuator_gainprm",)),
        "friction": Factor(0.25, 4.0, ("dof_frictionloss",)),
        "mass": Factor(0.5, 4.0, ("body_mass", "body_inertia")),
        "stem_length": Factor(0.5, 1.5),
    }

    def __init__(
        self,
        *,
        criterion: str = "block",
        block_in_proprio: bool = False,
        success_radius: float = 20 * PIXEL,
        image_size: int = 64,
        render_backend: str = "raster",
        max_steps: int = 60,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("criterion", criterion, CRITERIA)
        self.criterion, self.success_radius = criterion, float(success_radius)
        self.block_in_proprio = bool(block_in_proprio)
        self.max_steps = int(max_steps)
        check_positive("success_radius", self.success_radius)
        check_whole("max_steps", self.max_steps, at_least=1)
        super().__init__(
            _model_xml,
            num_substeps=NUM_SUBSTEPS,
            half_width=1.0,
            layers={
                "background_color": ["background"],
                "block_color": ["bar", "stem"],
                "pusher_color": ["pusher"],
            },
            image_size=image_size,
            render_backend=render_backend,
            device=device,
        )
        high = [1.1, 1.1, 4 * SPEED, 4 * SPEED, *([1.1, 1.1, 1.0, 1.0] if self.block_in_proprio else [])]
        self.proprio_high = torch.tensor(high, device=self.device)
        self.proprio_low, self.proprio_dim = -self.proprio_high, len(high)

    def _start(self, factors: State, generator: torch.Generator) -> State:
        """Draw the block anywhere near the middle, the pusher beside it."""
        spread = torch.tensor([BLOCK_START, BLOCK_START, math.pi], device=self.device)
        block = spread * self._uniform((len(factors["stem_length"]), 3), generator)
        return self._at_rest({}, torch.cat([self._draw_pusher(factors, block, generator), block], 1))

    def proprio(self, state: State) -> Tensor:
        """Return place and velocity of the pusher, ``(B, 4)``; with ``block_in_proprio`` also of the block, ``(B, 8)``.

        Of the block these are its place and the cosine and sine of its angle.
        """
        pusher = torch.cat([state["position"][:, :2], state["velocity"][:, :2]], 1)
        if not self.block_in_proprio:
            return pusher
        angle = state["position"][:, 4:]
        return torch.cat([pusher, state["position"][:, 2:4], angle.cos(), angle.sin()], 1)

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw a pose of the block per world, at most .4 and 60 degrees from where it is, that is not solved.

        Raises:
            ValueError: none of the candidates is valid (``success_radius`` covers nearly everything).
        """
        here = state["position"][:, None, 2:]  # (B, 1, 3)
        reach = torch.tensor([SHIFT, SHIFT, TURN], device=self.device)
        limit = torch.tensor([BLOCK_START, BLOCK_START, torch.inf], device=self.device)
        low, high = torch.maximum(here - reach, -limit), torch.minimum(here + reach, limit)
        uniform = (self._uniform((num_worlds(state), TRIES, 3), generator) + 1.0) / 2.0
        candidates = low + uniform * (high - low)
        block = self._first_unsolved(candidates, self._is_near(here, candidates))
        return self._at_rest(state, torch.cat([self._draw_pusher(state, block, generator), block], 1))

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals at ``position``, ``(B, 5)`` or ``(5,)``: places of pusher and block, and its angle [rad].

        Raises:
            ValueError: another shape, or a place outside the arena.
        """
        num = num_worlds(state)
        position = torch.as_tensor(position, dtype=torch.float32, device=self.device)
        if position.shape not in ((5,), (num, 5)):
            raise ValueError(f"a goal must have shape (5,) or {(num, 5)}, got {tuple(position.shape)}")
        position = position.expand(num, 5).clone()
        pusher, block = position[:, :2], position[:, 2:]
        is_free = torch.isfinite(position).all(-1) & (
            self.clearance(pusher, block, state["stem_length"]) >= 0
        )
        is_free &= (pusher.abs() <= PUSHER_RANGE).all(-1) & (block[:, :2].abs() <= BLOCK_RANGE).all(-1)
        if not bool(is_free.all()):
            raise ValueError(
                f"a goal's pusher must lie within {PUSHER_RANGE:.3f} and its block within {BLOCK_RANGE} of the middle, "
                f"beside each other, got {position[~is_free][0].tolist()}"
            )
        return self._at_rest(state, position)

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: the block, and for "both" the pusher, is where the goal has it."""
        is_near = self._is_near(state["position"][:, 2:], goal["position"][:, 2:])
        if self.criterion == "block":
            return is_near
        return is_near & ((state["position"] - goal["position"])[:, :2].norm(dim=-1) < self.success_radius)

    def distance(self, state: State, goal: State) -> Tensor:
        """Return ``(B,)``: how far the block's corners have to move, a root mean square, and a tenth of the pusher's way.

        The pusher's way is to the block, without which a planner would never come near it, and as the block comes to its
        place, for the criterion "both", to where the goal has the pusher. Zero at the goal.
        """
        pose, there = (
            torch.cat([position[:, :4], position[:, 4:].cos(), position[:, 4:].sin()], 1)
            for position in (state["position"], goal["position"])
        )
        return self._pose_distance(pose, there, state["stem_length"])

    def seen_distance(self, proprio: Tensor, goal: Tensor) -> Tensor:
        """Return :meth:`distance` ``(...)`` from ``proprio (..., 8)`` to the goal's, of a block of the usual shape.

        Raises:
            ValueError: proprioception does not show the block.
        """
        if not self.block_in_proprio:
            raise ValueError(
                "block_in_proprio must be true for proprioception to show the distance, got false"
            )
        turns = (F.normalize(each[..., 6:], dim=-1) for each in (proprio, goal))
        poses = [
            torch.cat([each[..., :2], each[..., 4:6], turn], -1)
            for each, turn in zip((proprio, goal), turns, strict=True)
        ]
        return self._pose_distance(*poses)

    def _pose_distance(self, pose: Tensor, goal: Tensor, stem_length: Tensor | None = None) -> Tensor:
        """Return ``(...)`` from poses ``(..., 6)``: places of pusher and block, cosine and sine of the block's angle."""
        shape = self._corners_at_rest(stem_length, pose.device)
        corners = _placed(shape, pose[..., 2:]) - _placed(shape, goal[..., 2:])
        moved = _norm(corners.flatten(-2)) / math.sqrt(corners.shape[-2])
        away = (_norm(pose[..., :2] - pose[..., 2:4]) - BAR[1] - RADIUS).clamp_min(0.0)
        rest = _norm(pose[..., :2] - goal[..., :2]) if self.criterion == "both" else torch.zeros_like(away)
        return moved + 0.1 * torch.lerp(rest, away, (moved / self.success_radius).clamp(max=1.0))

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the velocity ``(B, 2)`` towards the side of the block that is opposite to where it should go, then on.

        A plain rule that pushes and seldom turns: it is no upper reference, which is the planner on the true simulator.
        Its way round the block is that of the usual T, whatever ``stem_length`` is.
        """
        pusher, block = state["position"][:, :2], state["position"][:, 2:4]
        ahead = goal["position"][:, 2:4] - block
        way = ahead / ahead.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        behind = block - (BAR[0] + 1.5 * RADIUS) * way
        offset = pusher - block
        along = (offset * way).sum(-1, keepdim=True)
        side = offset - along * way
        sideways = side / side.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        around = block + (BAR[0] + 2 * RADIUS) * sideways - BAR[0] * way
        is_behind = (along < -BAR[1]) & (side.norm(dim=-1, keepdim=True) < RADIUS)
        is_beside = along > -BAR[1]
        target = torch.where(is_behind, pusher + way, torch.where(is_beside, around, behind))
        speed = torch.where(is_behind[:, 0], ahead.norm(dim=-1) * 5.0, torch.ones_like(ahead[:, 0])).clamp(
            max=1.0
        )
        return clip_norm(10.0 * (target - pusher), 1.0) * speed[:, None]

    def layout_id(self, state: State) -> Tensor:
        """Return int64 zeros ``(B,)``: the world has one layout."""
        return torch.zeros_like(state["seed"])

    def clearance(self, pusher: Tensor, block: Tensor, stem_length: Tensor | None = None) -> Tensor:
        """Return the gap ``(...)`` between pushers at ``(..., 2)`` and blocks of pose ``(..., 3)``; negative inside.

        Args:
            pusher: places.
            block: places and angles [rad].
            stem_length: ``(...)``, the factor; None is 1.
        """
        angle = block[..., 2]
        offset = pusher - block[..., :2]
        x = angle.cos() * offset[..., 0] + angle.sin() * offset[..., 1]
        y = angle.cos() * offset[..., 1] - angle.sin() * offset[..., 0]
        half_stem, bar, stem = self._lengths(stem_length, pusher.device)
        gaps = []
        for half_x, half_y, centre in ((*BAR, bar), (STEM[0], half_stem, stem)):
            across, down = x.abs() - half_x, (y - centre).abs() - half_y
            outside = (across.clamp_min(0).square() + down.clamp_min(0).square()).sqrt()
            gaps.append(outside + torch.maximum(across, down).clamp_max(0))
        return torch.minimum(*gaps) - RADIUS

    @staticmethod
    def _lengths(stem_length: Tensor | None, device: torch.device) -> tuple[Tensor, ...]:
        """Return :func:`_block_lengths` of the factor ``(...)``, float32."""
        factor = torch.ones((), device=device) if stem_length is None else stem_length
        return tuple(length.float() for length in _block_lengths(factor.double()))

    def _draw_pusher(self, factors: State, block: Tensor, generator: torch.Generator) -> Tensor:
        """Return places ``(B, 2)`` beside blocks ``(B, 3)``."""
        place = PUSHER_RANGE * self._uniform((len(block), TRIES, 2), generator)
        is_free = self.clearance(place, block[:, None], factors["stem_length"][:, None]) > CLEARANCE
        assert bool(is_free.any(1).all())
        return place[torch.arange(len(block), device=self.device), is_free.to(torch.int8).argmax(1)]

    def _is_near(self, block: Tensor, goal: Tensor) -> Tensor:
        moved = (block - goal)[..., :2].norm(dim=-1)
        turned = torch.remainder((block - goal)[..., 2] + math.pi, 2 * math.pi) - math.pi
        return (moved < self.success_radius) & (turned.abs() < ANGLE)

    def _corners_at_rest(self, stem_length: Tensor | None, device: torch.device) -> Tensor:
        """Return the corners ``(..., 8, 2)`` of bar and stem of blocks at the origin, for the factor ``(...)``."""
        half_stem, bar, stem = self._lengths(stem_length, device)
        signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], device=device)
        nothing = torch.zeros_like(bar)
        corners = [
            signs * torch.stack([nothing + half_x, nothing + half_y], -1)[..., None, :]
            + torch.stack([nothing, centre], -1)[..., None, :]
            for half_x, half_y, centre in ((*BAR, bar), (STEM[0], half_stem, stem))
        ]
        return torch.cat(corners, -2)


def _placed(corners: Tensor, block: Tensor) -> Tensor:
    """Return corners ``(..., 8, 2)`` where blocks ``(..., 4)`` are: place, cosine and sine."""
    x, y = corners.unbind(-1)
    cos, sin = block[..., 2:3], block[..., 3:]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + block[..., None, :2]


def _norm(vector: Tensor) -> Tensor:
    """Return the length over the last axis, with a gradient of zero, not NaN, at zero."""
    return torch.linalg.vector_norm(vector, dim=-1)


def _block_lengths(stem_length: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401
    """Return half the stem's length, and how far bar and stem are below the centre of mass, for the factor."""
    bar, stem = 2 * BAR[0] * BAR[1], 2 * STEM[0] * STEM[1] * stem_length  # half areas
    half = STEM[1] * stem_length
    centre = (bar * BAR[1] + stem * (2 * BAR[1] + half)) / (bar + stem)  # below the bar's upper edge
    return half, BAR[1] - centre, 2 * BAR[1] + half - centre


def _model_xml(stem_length: float = 1.0) -> str:
    half_stem, bar, stem = _block_lengths(stem_length)
    slides = {
        name: "".join(
            f'<joint name="{name}_{axis}" type="slide" axis="{direction}" range="-{limit} {limit}" {rest}/>'
            for axis, direction in (("x", "1 0 0"), ("y", "0 1 0"))
        )
        for name, limit, rest in (
            ("pusher", PUSHER_RANGE, ""),
            ("block", BLOCK_RANGE, 'frictionloss="1" damping="1"'),
        )
    }
    actuators = "".join(
        f'<general joint="pusher_{axis}" ctrlrange="-1 1" biastype="affine" gainprm="{KV * SPEED}" biasprm="0 0 -{KV}"/>'
        for axis in ("x", "y")
    )
    return f"""<mujoco model="push t">
<option timestep="{TIMESTEP}" integrator="implicitfast" jacobian="dense" gravity="0 0 0"/>
<visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
<default><geom friction=".3"/></default>
<worldbody>
{camera_xml(1.0)}
<geom name="background" type="box" pos="0 0 5" size="4 4 .1" contype="0" conaffinity="0"/>
<body name="pusher">{slides["pusher"]}<geom name="pusher" type="sphere" size="{RADIUS}" mass=".2"/></body>
<body name="block">{slides["block"]}<joint name="block_turn" type="hinge" axis="0 0 1" frictionloss=".1" damping=".1"/>
  <geom name="bar" type="box" pos="0 {bar} 0" size="{BAR[0]} {BAR[1]} .05" mass=".3"/>
  <geom name="stem" type="box" pos="0 {stem} 0" size="{STEM[0]} {half_stem} .05" mass="{0.225 * stem_length}"/>
</body>
</worldbody>
<actuator>{actuators}</actuator>
</mujoco>"""
