"""What the MuJoCo tasks share: a step of physics, pictures by either renderer, and the packing of states.

A state has ``position (B, nq)`` and ``velocity (B, nv)`` of the model's joints, a value per factor of variation, and
``seed`` and ``step``, from which noise is drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.hashing import hash_normal
from envs.mujoco.looks import DEFAULTS, FACTORS, looks_of
from envs.mujoco.physics import Physics
from envs.mujoco.raster import Rasteriser, View, growing_sizes
from envs.mujoco.renderer import MujocoRenderer
from envs.mujoco.shapes import Shapes
from envs.simulator import VectorLayout, check_action_shape
from envs.state import State, num_worlds
from envs.suggestions import check_choice, check_whole
from envs.variation import Variation, resolve_variation

NUM_SEEDS = 2**24  # seeds stay exact in a float32 state vector
BACKENDS = ("raster", "mujoco")


@dataclass(frozen=True)
class Factor:
    """A physical factor of variation: what it multiplies, and between which values; without fields, a shape."""

    low: float
    high: float
    fields: tuple[str, ...] = ()  # of the model; none: the model is compiled with the factor


class MujocoTask:
    """A simulator on a MuJoCo model; subclasses say what the tasks are.

    They set what :meth:`initial` reads before they call this constructor, which draws a first state.

    Args:
        xml: the model as MJCF, with the geoms of ``layers`` and the camera of :func:`envs.mujoco.renderer.camera_xml`;
            where shapes are among the factors, a function of these, keywords that are 1 unless they are given.
        num_substeps: MuJoCo steps per action.
        half_width: of what pictures show [world units].
        layers: colour -> names of the geoms that have it, the lowest first. The first lies behind all.
        image_size: pixels per side.
        render_backend: who draws ``pixels``: "raster", batched, or "mujoco", which needs an OpenGL context.
        device: where states live. Physics runs on the CPU.
    """

    env_id: str
    colours: Mapping[str, tuple[int, int, int]]  # defaults of the factors of the pictures
    physical: Mapping[str, Factor]
    drawn_sizes: Mapping[str, str]  # factor -> the layer that it draws larger, and nothing else
    world_fields: tuple[str, ...] = ()  # model fields that always differ between worlds
    max_action_norm: float | None = None
    success_radius: float

    def __init__(
        self,
        xml: str | Callable[..., str],
        *,
        num_substeps: int,
        half_width: float,
        layers: Mapping[str, Sequence[str]],
        image_size: int,
        render_backend: str,
        device: str | torch.device,
    ) -> None:
        check_choice("render_backend", render_backend, BACKENDS)
        check_whole("image_size", image_size, at_least=16)
        self.xml = xml if isinstance(xml, str) else xml()
        self.model = model = mujoco.MjModel.from_xml_string(self.xml)
        self.num_substeps, self.half_width = num_substeps, half_width
        self.image_size, self.render_backend = int(image_size), render_backend
        self.device = torch.device(device)
        self.action_dim = int(model.nu)
        self.action_low, self.action_high = (
            torch.from_numpy(bound.astype(np.float32)).to(self.device) for bound in model.actuator_ctrlrange.T
        )
        self.pixels_shape = (3, self.image_size, self.image_size)
        self.layers = {name: [model.geom(geom).id for geom in geoms] for name, geoms in layers.items()}
        self._plain = Physics(model, num_substeps, self.world_fields)
        shapes = {name: (each.low, each.high) for name, each in self.physical.items() if not each.fields}
        if shapes and isinstance(xml, str):
            raise ValueError(
                f"xml must be a function of the factors without fields, {', '.join(shapes)}, got text"
            )
        self._shapes = None if isinstance(xml, str) or not shapes else Shapes(xml, shapes)
        varied = [] if self._shapes is None else list(self._shapes.fields)
        varied += [name for factor in self.physical.values() for name in factor.fields]
        self._varied = Physics(model, num_substeps, (*self.world_fields, *dict.fromkeys(varied)))
        self._draw = self._rasteriser(self.image_size)
        self._renderer: MujocoRenderer | None = None
        self.variation_space = self._variation_space()
        self._vector = VectorLayout(self.initial(1, torch.Generator().manual_seed(0)))
        self.state_dim = self._vector.dim

    def initial(
        self,
        num_envs: int,
        generator: torch.Generator,
        variation: Variation | None = None,
        *,
        split: str = "train",
    ) -> State:
        """Draw B worlds of default factors; where splits have no layouts of their own, they differ in their draws only.

        Raises:
            ValueError: unknown split or factor, or a value outside ``variation_space``.
        """
        check_choice("split", split, ("train", "eval"))
        if split == "eval":  # equal generators draw other tasks
            torch.rand(1, generator=generator, device=generator.device)
        given = resolve_variation(self.variation_space, variation, num_envs, self.device)
        factors = {**self._default_factors(num_envs), **given}
        return {**self._start(factors, generator), **factors, **self._clock(num_envs, generator)}

    def _start(self, factors: State, generator: torch.Generator) -> State:
        """Draw positions, velocities and what else a task keeps, of worlds of these factors that begin."""
        raise NotImplementedError

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this simulator, on any device; JSON-able."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "device"]
        return {name: getattr(self, name) for name in names}

    def transition(self, state: State, action: Tensor) -> State:
        """Act for one control step; ``action (B, A)`` is clipped to the bounds, noise is added before.

        Raises:
            ArithmeticError: the simulation became unstable.
        """
        check_action_shape(action, num_worlds(state), self.action_dim)
        if bool((state["action_noise"] > 0).any()):
            noise = hash_normal(state["seed"], state["step"], self.action_dim)
            action = action + state["action_noise"][:, None] * noise
        action = action.clamp(self.action_low, self.action_high)
        physics, fields = self._physics(state, self.physical)
        position, velocity = physics.step(state["position"], state["velocity"], action, fields)
        return {**state, "position": position, "velocity": velocity, "step": state["step"] + 1}

    def observation(self, state: State) -> dict[str, Tensor]:
        """Return ``pixels`` uint8 ``(B, 3, S, S)`` and ``proprio`` float32 ``(B, P)``."""
        return {"pixels": self.pixels(state), "proprio": self.proprio(state)}

    def proprio(self, state: State) -> Tensor:
        """Return positions and velocities of the joints, ``(B, nq + nv)``."""
        return torch.cat([state["position"], state["velocity"]], 1)

    def pixels(self, state: State) -> Tensor:
        """Return uint8 ``(B, 3, S, S)``, by the rasteriser or by MuJoCo."""
        if self.render_backend == "raster":
            return self._drawn(self._draw, state)
        looks = looks_of(state, self.half_width, self.drawn_sizes)
        if looks is not None and looks.has_backdrop:
            raise ValueError(
                "texture and num_distractors must be 0 with render_backend 'mujoco', got "
                f"{float(looks.texture.max())} and {int(looks.num_distractors.max())}"
            )
        if self._renderer is None:
            self._renderer = MujocoRenderer(mujoco.MjModel.from_xml_string(self.xml), self.image_size)
        shaped = {} if self._shapes is None else self._shapes(state)
        fields = {key: value.cpu().numpy() for key, value in {**self.fields(state), **shaped}.items()}
        plain_sizes = np.broadcast_to(self.model.geom_size, (num_worlds(state), *self.model.geom_size.shape))
        sizes = fields.get("geom_size", plain_sizes)
        position = state["position"].cpu().double().numpy()
        colours = {name: state[name].cpu().numpy() / 255.0 for name in self.layers}
        shift = self.half_width * state["camera_shift"].cpu().numpy()
        zoom = state["camera_zoom"].cpu().numpy()
        enlarged = {layer: state[name].cpu().numpy() for name, layer in self.drawn_sizes.items()}
        growing = growing_sizes(self.model)

        def prepare(world: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
            for name, values in fields.items():
                getattr(model, name)[:] = values[world]
            for name, geoms in self.layers.items():
                model.geom_rgba[geoms, :3] = colours[name][world]
            for layer, factor in enlarged.items():
                geoms = self.layers[layer]
                model.geom_size[geoms] = sizes[world, geoms] * np.where(growing[geoms], factor[world], 1.0)
            model.cam_pos[0, :2] = shift[world]
            model.cam_fovy[0] = 2.0 * self.half_width / zoom[world]
            data.qpos[:] = position[world]

        return self._renderer(num_worlds(state), prepare).to(self.device)

    def close(self) -> None:
        """Give the OpenGL context back, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def picture(self, state: State, image_size: int = 256) -> Tensor:
        """Return colour images for people, uint8 ``(B, image_size, image_size, 3)``."""
        return self._drawn(self._rasteriser(image_size), state).permute(0, 2, 3, 1).contiguous()

    def _drawn(self, draw: Rasteriser, state: State) -> Tensor:
        """Return uint8 ``(B, 3, S, S)`` by a rasteriser."""
        looks = looks_of(state, self.half_width, self.drawn_sizes)
        sizes = None
        if self._shapes is not None and self._differs(state, self._shapes.names):
            sizes = self._shapes(state)["geom_size"].float()
        colours = {name: state[name] for name in self.layers}
        return draw(*self.poses(state), colours, looks, sizes)

    def poses(self, state: State) -> tuple[Tensor, Tensor]:
        """Return centres ``(B, G, 3)`` and rotations ``(B, G, 3, 3)`` of the geoms."""
        physics, fields = self._physics(state, () if self._shapes is None else self._shapes.names)
        return physics.poses(state["position"], fields)

    def _physics(self, state: State, factors: Iterable[str]) -> tuple[Physics, dict[str, Tensor]]:
        """Return the physics that knows what these factors change, if they do, and the model's fields for it."""
        fields = self.fields(state)
        if not self._differs(state, factors):
            return self._plain, fields
        return self._varied, {**fields, **self._changed(state)}

    @staticmethod
    def _differs(state: State, factors: Iterable[str]) -> bool:
        return any(bool((state[name] != 1.0).any()) for name in factors)

    def fields(self, state: State) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the model's fields that always differ between worlds, float32 ``(B, ...)``."""
        return {}

    def state_vector(self, state: State) -> Tensor:
        """Return the whole state as float32 ``(B, S)``."""
        return self._vector.pack(state)

    def state_from_vector(self, vector: Tensor) -> State:
        """Invert :meth:`state_vector` exactly."""
        return self._vector.unpack(vector.to(self.device))

    def factors(self, state: State) -> dict[str, Tensor]:
        """Return the factors of variation per world, ``(B, ...)``."""
        return {name: state[name].clone() for name in self.variation_space}

    def _variation_space(self) -> spaces.Dict:
        """Return the physical factors, noise on actions [action units], looks and colours."""
        factors: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(factor.low, factor.high, (), np.float32)
            for name, factor in self.physical.items()
        }
        factors["action_noise"] = spaces.Box(0.0, 1.0, (), np.float32)
        factors |= FACTORS | {name: spaces.Box(0.5, 2.0, (), np.float32) for name in self.drawn_sizes}
        return spaces.Dict(factors | {name: spaces.Box(0, 255, (3,), np.uint8) for name in self.colours})

    def _default_factors(self, num: int) -> State:
        ones = dict.fromkeys([*self.physical, *self.drawn_sizes], 1.0)
        defaults: dict[str, Any] = {**ones, "action_noise": 0.0, **DEFAULTS, **self.colours}
        whole = {"num_distractors", *self.colours}
        return {
            name: torch.as_tensor(value, dtype=torch.uint8 if name in whole else torch.float32)
            .to(self.device)
            .expand(num, *np.shape(value))
            .clone()
            for name, value in defaults.items()
        }

    def _clock(self, num: int, generator: torch.Generator) -> State:
        """Return ``seed`` and ``step`` of worlds that begin."""
        seed = torch.randint(NUM_SEEDS, (num,), generator=generator, device=generator.device)
        return {
            "seed": seed.to(self.device),
            "step": torch.zeros(num, dtype=torch.int64, device=self.device),
        }

    def _first_unsolved(self, positions: Tensor, is_solved: Tensor) -> Tensor:
        """Return the first of the candidates ``(B, K, nq)`` per world that is not solved yet, ``(B, nq)``.

        Raises:
            ValueError: a world has none (``success_radius`` covers nearly everything).
        """
        if bool(is_solved.all(1).any()):
            raise ValueError(
                f"a goal must exist outside success_radius, got none for {self.success_radius} in world "
                f"{int(is_solved.all(1).nonzero()[0, 0])}"
            )
        return positions[
            torch.arange(len(positions), device=self.device), (~is_solved).to(torch.int8).argmax(1)
        ]

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw from [-1, 1)."""
        drawn = torch.rand(shape, generator=generator, device=generator.device)
        return 2.0 * drawn.to(self.device) - 1.0

    def _at_rest(self, state: State, position: Tensor) -> State:
        return {**state, "position": position, "velocity": position.new_zeros(len(position), self.model.nv)}

    def _changed(self, state: State) -> State:
        """Return the model's fields as the physical factors of each world make them, float64 ``(B, ...)``.

        In double precision a factor of 1 leaves a field as it is, to the bit.
        """
        fields: State = {} if self._shapes is None else self._shapes(state)
        for name, factor in self.physical.items():
            for field in factor.fields:
                value = fields.get(field, torch.from_numpy(getattr(self.model, field)).to(self.device))
                fields[field] = value * state[name].view(-1, *[1] * getattr(self.model, field).ndim)
        return fields

    def _own(self, field: str) -> Tensor:
        """Return a field of the model, float32."""
        return torch.from_numpy(np.asarray(getattr(self.model, field), np.float32)).to(self.device)

    def _rasteriser(self, image_size: int) -> Rasteriser:
        return Rasteriser(self.model, View(image_size, self.half_width), self.layers)
