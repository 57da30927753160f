"""How a world looks beyond its colours: camera, drawn sizes, texture of the background, distractors; nothing is moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.hashing import hash_randint, hash_uniform
from envs.state import State
from envs.textures import TextureBank

MOST_DISTRACTORS = 4
FACTORS: dict[str, spaces.Space] = {
    "camera_shift": spaces.Box(-0.3, 0.3, (2,), np.float32),  # [half widths of the picture]
    "camera_zoom": spaces.Box(0.7, 1.4, (), np.float32),
    "texture": spaces.Box(0.0, 1.0, (), np.float32),  # of the background: its share of the colour
    "num_distractors": spaces.Box(0, MOST_DISTRACTORS, (), np.uint8),  # discs that move behind everything
}
DEFAULTS: dict[str, object] = {
    "camera_shift": (0.0, 0.0),
    "camera_zoom": 1.0,
    "texture": 0.0,
    "num_distractors": 0,
}
DISTRACTOR_RADIUS = (0.06, 0.14)  # [half widths]
DISTRACTOR_SPEED = 0.04  # at most, along either axis [half widths per step]
_TEXTURE, _PLACE, _SPEED, _RADIUS, _COLOUR = range(100, 105)  # keys of the hash


@dataclass(frozen=True)
class Looks:
    """Of a batch of worlds.

    Attributes:
        shift: ``(B, 2)`` where the camera is [world units].
        zoom: ``(B,)`` how much larger it shows everything.
        sizes: colour of a layer -> ``(B,)``, how much larger its geoms are drawn.
        texture: ``(B,)`` share of the background that is texture.
        num_distractors: ``(B,)``.
        seed: ``(B,)`` what texture and distractors are drawn from.
        step: ``(B,)`` when.
    """

    shift: Tensor
    zoom: Tensor
    sizes: Mapping[str, Tensor]
    texture: Tensor
    num_distractors: Tensor
    seed: Tensor
    step: Tensor

    def part(self, worlds: slice) -> Looks:
        """Return those of some of the worlds."""
        return Looks(
            self.shift[worlds],
            self.zoom[worlds],
            {name: size[worlds] for name, size in self.sizes.items()},
            self.texture[worlds],
            self.num_distractors[worlds],
            self.seed[worlds],
            self.step[worlds],
        )

    @property
    def has_backdrop(self) -> bool:
        """Whether there is a texture or a distractor anywhere."""
        return bool((self.texture > 0).any() or (self.num_distractors > 0).any())

    def textured(self, image: Tensor, bank: TextureBank) -> Tensor:
        """Return backgrounds ``(B, 3, S, S)`` of one colour with their texture, gray, laid over."""
        seed = self.seed.to(torch.int64)
        which = hash_randint(len(bank.images), seed, _TEXTURE)
        row, col = (hash_randint(span, seed, _TEXTURE, axis) for axis, span in enumerate(bank.span))
        gray = bank.crop(which, row, col).to(torch.float32)[:, None]
        return torch.lerp(image, gray.expand_as(image), self.texture[:, None, None, None])

    def distractors(self, half_width: float) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return each disc's centre ``(B, 2)``, radius ``(B,)`` [world units], colour ``(B, 3)``, and if it is there."""
        seed, found = self.seed.to(torch.int64), []
        low, high = DISTRACTOR_RADIUS
        for number in range(int(self.num_distractors.max())):
            place, speed = (
                torch.stack([hash_uniform(seed, key, 2 * number + axis) for axis in (0, 1)], -1)
                for key in (_PLACE, _SPEED)
            )
            way = 4.0 * place + (2.0 * speed - 1.0) * DISTRACTOR_SPEED * self.step[:, None]
            centre = (torch.remainder(way, 4.0) - 2.0).abs() - 1.0  # there and back, in [-1, 1]
            radius = low + (high - low) * hash_uniform(seed, _RADIUS, number)
            colour = torch.stack(
                [hash_randint(256, seed, _COLOUR, 3 * number + channel) for channel in range(3)], -1
            )
            is_there = self.num_distractors > number
            found.append((half_width * centre, half_width * radius, colour.float(), is_there))
        return found


def looks_of(state: State, half_width: float, sizes: Mapping[str, str]) -> Looks | None:
    """Return how worlds look, or None where all look plain.

    Args:
        state: with the factors.
        half_width: of the picture [world units].
        sizes: factor of a drawn size -> the layer that it enlarges.
    """
    looks = Looks(
        half_width * state["camera_shift"],
        state["camera_zoom"],
        {layer: state[name] for name, layer in sizes.items()},
        state["texture"],
        state["num_distractors"],
        state["seed"],
        state["step"],
    )
    is_plain = bool((looks.shift == 0).all() and (looks.zoom == 1).all()) and not looks.has_backdrop
    if is_plain and all(bool((size == 1).all()) for size in looks.sizes.values()):
        return None
    return looks
