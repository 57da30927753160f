"""Moving dot with distractors, after "Joint embedding predictive architectures focus on slow features".

A dot walks on 28 x 28 px in front of a distractor N that is absent, fixed for an episode, drawn anew at each
step or slowly rolling (arXiv 2211.10831, section 3). ``pixels = dot + alpha * N`` in units of the dot's peak,
and the constant scale 255 / (1 + alpha) maps the brightest possible pixel to 255. With three dots each has a
channel: the one that the actions move, a second walker that moves by itself, and a stationary one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.distractors import Distractor
from envs.hashing import hash_normal, hash_uniform
from envs.rendering import chunks, gaussian_profile, outer, pixel_centres, store_uint8
from envs.simulator import VectorLayout, check_action_shape, clip_norm, goal_positions
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_whole
from envs.variation import Variation, resolve_variation
from envs.von_mises import von_mises_from_uniform

WORLD_SIZE = 28  # [px]
LOW, HIGH = 2.6, 24.4  # positions stay in here [px]
MAX_STEP = 4.0  # largest norm of an action [px]
WALKER_KAPPA = 0.2  # of the second walker's angles around its mean angle
NUM_SEEDS = 2**24  # seeds stay exact in a float32 state vector
GOAL_CANDIDATES = 64

# Streams of the counter-based generator: one number per use of a seed.
_WALKER_MEAN, _WALKER_ANGLE, _WALKER_LENGTH = range(100, 103)


class MovingDot:
    """Simulator of the moving dot; see :class:`envs.simulator.Simulator` for the contract.

    There is no layout: ``layout_id`` is 0. The splits differ in the distractor's images, which are disjoint.

    Args:
        num_dots: 1, or 3: the actor, a second walker and a stationary dot, one channel each.
        distractor: "none", "uniform" (i.i.d. pixels) or "structured" (smooth textures, or ``textures``).
        motion: "fixed" per episode, "changing" at each step or "rolling" by 1 px per step.
        alpha: Default brightness of the distractor relative to the dot's peak.
        textures: Images for the structured distractor, ``(M, rows, cols)`` uint8 or floats in [0, 1], or the
            path of a ``.npy`` file that holds them. Only a path can be written down in ``kwargs``.
        image_size: Pixels per side of the image; the world stays 28 px wide.
        max_steps: Episode length of the Gymnasium environments.
        success_radius: A goal is reached below this distance [px].
        device: Where states live.
    """

    env_id = "worldmodel/MovingDot-v0"
    unit = "px"
    action_dim = 2
    proprio_dim = 2

    def __init__(
        self,
        *,
        num_dots: int = 1,
        distractor: str = "none",
        motion: str = "fixed",
        alpha: float = 1.0,
        textures: np.ndarray | Tensor | str | Path | None = None,
        image_size: int = 28,
        max_steps: int = 16,
        success_radius: float = 2.0,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("distractor", distractor, ("none", "uniform", "structured"))
        check_choice("motion", motion, ("fixed", "changing", "rolling"))
        if num_dots not in (1, 3):
            raise ValueError(f"num_dots must be 1 or 3, got {num_dots}")
        if not 0 <= alpha <= 3:
            raise ValueError(f"alpha must be in [0, 3], got {alpha}")
        if textures is not None and distractor != "structured":
            raise ValueError(f"textures must come with distractor 'structured', got {distractor!r}")
        check_whole("image_size", image_size, at_least=4)
        check_whole("max_steps", max_steps, at_least=1)
        if not 0 < success_radius < HIGH - LOW:
            raise ValueError(f"success_radius must be in (0, {HIGH - LOW:.1f}), got {success_radius}")
        self.num_dots, self.distractor, self.motion = num_dots, distractor, motion
        self.alpha, self.textures = float(alpha), textures
        self.image_size, self.max_steps = int(image_size), int(max_steps)
        self.success_radius = float(success_radius)
        self.device = torch.device(device)
        self.max_action_norm: float | None = MAX_STEP
        self.action_low = torch.full((2,), -MAX_STEP, device=self.device)
        self.action_high = torch.full((2,), MAX_STEP, device=self.device)
        self.proprio_low = torch.zeros(2, device=self.device)
        self.proprio_high = torch.full((2,), WORLD_SIZE - 1.0, device=self.device)
        self.pixels_shape = (num_dots, self.image_size, self.image_size)
        self.variation_space = _variation_space(has_distractor=distractor != "none")
        self._centres = pixel_centres(self.image_size, WORLD_SIZE, self.device)
        self._distractor = None
        if distractor != "none":
            self._distractor = Distractor(distractor, motion, self.image_size, textures, self.device)
        self._vector = VectorLayout(self.initial(1, torch.Generator().manual_seed(0)))
        self.state_dim = self._vector.dim

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this simulator, on any device; JSON-able.

        Raises:
            ValueError: ``textures`` were given as an array.
        """
        if self.textures is not None and not isinstance(self.textures, str | Path):
            raise ValueError(
                "textures must be given as the path of a .npy file to be written down, got an array; "
                "save it with numpy.save"
            )
        names = ("num_dots", "distractor", "motion", "alpha", "image_size", "max_steps", "success_radius")
        textures = None if self.textures is None else str(self.textures)
        return {
            **{name: getattr(self, name) for name in names},
            "textures": textures,
        }

    def initial(
        self,
        num_envs: int,
        generator: torch.Generator,
        variation: Variation | None = None,
        *,
        split: str = "train",
    ) -> State:
        """Draw B worlds with all dots uniform in the field; ``variation`` replaces default factors.

        Raises:
            ValueError: Unknown split or factor, or a value outside ``variation_space``.
        """
        check_choice("split", split, ("train", "eval"))
        given = resolve_variation(self.variation_space, variation, num_envs, self.device)
        defaults = {"dot_size": 1.3, "speed": 1.0, "action_noise": 0.0}
        if self.distractor != "none":
            defaults["alpha"] = self.alpha
        factors = {
            name: torch.full((num_envs,), value, device=self.device) for name, value in defaults.items()
        }
        shape = (num_envs, self.num_dots, 2)
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(self.device)
        dots = LOW + uniform * (HIGH - LOW)
        seed = torch.randint(NUM_SEEDS // 2, (num_envs,), generator=generator, device=generator.device)
        others = {"other_positions": dots[:, 1:].clone()} if self.num_dots > 1 else {}
        return {
            "position": dots[:, 0].clone(),
            **others,
            **factors,
            **given,
            "seed": 2 * seed.to(self.device) + int(split == "eval"),  # the last bit picks the images
            "step": torch.zeros(num_envs, dtype=torch.int64, device=self.device),
        }

    def transition(self, state: State, action: Tensor) -> State:
        """Move dot 1 by ``speed * action + noise``, clamped; ``action (B, 2)`` is clipped to 4 px."""
        check_action_shape(action, num_worlds(state), 2)
        displacement = clip_norm(action, MAX_STEP) * state["speed"][:, None]
        if bool((state["action_noise"] > 0).any()):
            noise = hash_normal(state["seed"], state["step"], 2)
            displacement = displacement + state["action_noise"][:, None] * noise
        moved = {"position": (state["position"] + displacement).clamp(LOW, HIGH), "step": state["step"] + 1}
        if self.num_dots > 1:
            walker, stationary = state["other_positions"].unbind(1)
            walker = (walker + _walker_displacement(state)).clamp(LOW, HIGH)
            moved["other_positions"] = torch.stack([walker, stationary], 1)
        return {**state, **moved}

    def observation(self, state: State) -> dict[str, Tensor]:
        """Return ``pixels`` uint8 ``(B, dots, S, S)`` and ``proprio``, dot 1's position ``(B, 2)`` [px]."""
        return {"pixels": self.pixels(state), "proprio": self.proprio(state)}

    def pixels(self, state: State) -> Tensor:
        """Return uint8 ``(B, dots, S, S)``; three dots have the same background in every channel."""
        num, dots, size = num_worlds(state), self.num_dots, self.image_size
        alpha = state.get("alpha", torch.zeros(num, device=self.device))
        x, y = self._all_positions(state).view(num * dots, 2).unbind(-1)
        std, peak = state["dot_size"].repeat_interleave(dots), (255.0 / (1.0 + alpha)).repeat_interleave(dots)
        rows = gaussian_profile(self._centres, y, std) * peak[:, None]  # (B * dots, S)
        cols = gaussian_profile(self._centres, x, std)
        pixels = torch.empty((num, dots, size, size), dtype=torch.uint8, device=self.device)
        offset = self._distractor.offset(state["seed"], state["step"]) if self._distractor else ()
        starts = chunks(num, dots * size * size, pixels.device)
        for start in starts:
            part = slice(start, start + starts.step)
            flat = slice(start * dots, (start + starts.step) * dots)
            image = outer(rows[flat], cols[flat]).view(-1, dots, size, size)
            if self._distractor is not None:
                noise = self._distractor.bank.crop(*(index[part] for index in offset)).to(torch.float32)
                image += noise.mul_((alpha[part] / (1.0 + alpha[part]))[:, None, None])[:, None]
            store_uint8(pixels[part], image)
        return pixels

    def proprio(self, state: State) -> Tensor:
        """Return the position of dot 1 ``(B, 2)`` [px]."""
        return state["position"].clone()

    def picture(self, state: State, image_size: int = 252) -> Tensor:
        """Return images for people, uint8 ``(B, k S, k S, 3)`` with the largest whole k that fits."""
        times = max(1, image_size // self.image_size)
        pixels = self.pixels(state).expand(-1, 3, -1, -1)
        return pixels.permute(0, 2, 3, 1).repeat_interleave(times, 1).repeat_interleave(times, 2)

    def goal(self, state: State, generator: torch.Generator) -> State:
        """Draw a goal per world: dot 1 elsewhere, at least ``success_radius`` away.

        The distractor of a goal is the one of a later step of the same episode; other dots stay where they
        are.

        Raises:
            ValueError: No valid goal among the candidates (``success_radius`` fills the field).
        """
        num = num_worlds(state)
        shape = (num, GOAL_CANDIDATES, 2)
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(self.device)
        position = LOW + uniform * (HIGH - LOW)
        is_valid = (
            torch.linalg.vector_norm(position - state["position"][:, None], dim=-1) >= self.success_radius
        )
        if not bool(is_valid.any(1).all()):
            raise ValueError(
                f"a goal must exist outside success_radius, got none for {self.success_radius} px"
            )
        chosen = position[torch.arange(num, device=self.device), is_valid.to(torch.int8).argmax(1)]
        later = torch.randint(1, self.max_steps + 1, (num,), generator=generator, device=generator.device)
        return {**state, "position": chosen, "step": state["step"] + later.to(self.device)}

    def goal_at(self, state: State, position: Tensor) -> State:
        """Return goals with dot 1 at ``position (B, 2)`` [px], or at one ``(2,)`` for all worlds.

        Raises:
            ValueError: A position is not finite or lies outside the field.
        """
        position = goal_positions(position, num_worlds(state), self.device)
        is_free = ((position >= LOW) & (position <= HIGH)).all(-1)
        if not bool(is_free.all()):
            raise ValueError(f"a goal must lie in [{LOW}, {HIGH}]^2, got {position[~is_free][0].tolist()}")
        return {**state, "position": position}

    def success(self, state: State, goal: State) -> Tensor:
        """Return bool ``(B,)``: dot 1 is nearer to its goal than ``success_radius``."""
        return self.distance(state, goal) < self.success_radius

    def distance(self, state: State, goal: State) -> Tensor:
        """Return the distance ``(B,)`` of dot 1 to its goal [px]."""
        return torch.linalg.vector_norm(goal["position"] - state["position"], dim=-1)

    def expert(self, state: State, goal: State) -> Tensor:
        """Return the action ``(B, 2)`` straight to the goal."""
        return self.towards(state, goal["position"])

    def towards(self, state: State, position: Tensor) -> Tensor:
        """Return the action ``(B, 2)`` straight towards ``position (B, 2)`` [px]."""
        return clip_norm((position - state["position"]) / state["speed"][:, None], MAX_STEP)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Corners ``x0, y0, x1, y1`` of the drawn world [px]."""
        return (-0.5, -0.5, WORLD_SIZE - 0.5, WORLD_SIZE - 0.5)

    def position(self, state: State) -> Tensor:
        """Return where dot 1 is, ``(B, 2)`` [px]."""
        return state["position"].clone()

    def is_reachable(self, state: State, position: Tensor) -> Tensor:
        """Tell for each ``position (B, 2)`` [px] whether dot 1 can be there, bool ``(B,)``."""
        assert len(position) == num_worlds(state)
        return ((position >= LOW) & (position <= HIGH)).all(-1)

    def wall_rectangles(self, state: State) -> Tensor:
        """Return no walls, ``(B, 0, 4)``."""
        return torch.zeros((num_worlds(state), 0, 4), device=self.device)

    def state_vector(self, state: State) -> Tensor:
        """Return the whole state as float32 ``(B, S)``."""
        return self._vector.pack(state)

    def state_from_vector(self, vector: Tensor) -> State:
        """Invert :meth:`state_vector` exactly."""
        return self._vector.unpack(vector.to(self.device))

    def factors(self, state: State) -> dict[str, Tensor]:
        """Return the factors of variation per world, ``(B,)`` each."""
        return {name: state[name].clone() for name in self.variation_space}

    def layout_id(self, state: State) -> Tensor:
        """Return int64 zeros ``(B,)``: the world has one layout."""
        return torch.zeros_like(state["seed"])

    def background(self, state: State) -> Tensor:
        """Return the distractor N as uint8 ``(B, S, S)``; zeros where there is none."""
        if self._distractor is None:
            shape = (num_worlds(state), self.image_size, self.image_size)
            return torch.zeros(shape, dtype=torch.uint8, device=self.device)
        return self._distractor.bank.crop(*self._distractor.offset(state["seed"], state["step"]))

    def _all_positions(self, state: State) -> Tensor:
        """Return ``(B, dots, 2)``, the actor first."""
        actor = state["position"][:, None]
        return actor if self.num_dots == 1 else torch.cat([actor, state["other_positions"]], 1)


def _walker_displacement(state: State) -> Tensor:
    """Return the second walker's displacement ``(B, 2)``: the data policy's rule, driven by seed and step."""
    seed, step = state["seed"], state["step"]
    mean = 2.0 * math.pi * hash_uniform(seed, _WALKER_MEAN)
    angle = mean + von_mises_from_uniform(hash_uniform(seed, _WALKER_ANGLE, step), WALKER_KAPPA)
    length = MAX_STEP * hash_uniform(seed, _WALKER_LENGTH, step)
    return length[:, None] * torch.stack([angle.cos(), angle.sin()], -1)


def _variation_space(has_distractor: bool) -> spaces.Dict:
    limits = {"dot_size": (0.7, 3.0), "speed": (0.25, 2.0), "action_noise": (0.0, 2.0)}
    if has_distractor:
        limits["alpha"] = (0.0, 3.0)
    return spaces.Dict({name: spaces.Box(*limit, (), np.float32) for name, limit in limits.items()})
