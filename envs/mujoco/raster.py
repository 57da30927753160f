"""Flat pictures of MuJoCo worlds, drawn for a whole batch in torch: what training frames are made of.

Geoms are seen by an orthographic camera along the z axis, without light: spheres are discs, capsules and boxes their
outlines (Quilez, "2D distance functions"). The edge of a shape is as wide as a pixel. Axis-aligned boxes cover each pixel
by the exact share of its area, so that walls that touch leave no seam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.mujoco.looks import Looks
from envs.rendering import chunks, coverage_profile, store_uint8
from envs.textures import TextureBank, smooth_bank

SPHERE, CAPSULE, BOX = (
    int(kind)
    for kind in (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_BOX)
)


@dataclass(frozen=True)
class View:
    """What a square picture shows.

    Attributes:
        size: pixels per side.
        half_width: from its centre to its edge, without zoom [world units].
    """

    size: int
    half_width: float

    @property
    def pixel(self) -> float:
        """Width of a pixel [world units]."""
        return 2.0 * self.half_width / self.size

    def centres(self, device: torch.device) -> Tensor:
        """Return the coordinates ``(S,)`` of the pixels' centres along either axis, y downwards."""
        index = torch.arange(self.size, dtype=torch.float32, device=device)
        return (index + 0.5) * self.pixel - self.half_width


def growing_sizes(model: mujoco.MjModel) -> np.ndarray:
    """Return which sizes ``(G, 3)`` grow where a geom is drawn larger, bool: all but the length of capsules."""
    growing = np.ones(model.geom_size.shape, bool)
    growing[model.geom_type == CAPSULE, 1] = False
    return growing


class Rasteriser:
    """Draws the geoms of a model, layer over layer.

    Args:
        model: whose geom table is drawn: types, sizes and, per layer, which of them have one colour.
        view: the picture.
        layers: name of a colour -> its geoms, the lowest layer first. The first lies behind everything, whatever its
            geoms. Geoms of no layer are not drawn.
    """

    def __init__(self, model: mujoco.MjModel, view: View, layers: Mapping[str, Sequence[int]]) -> None:
        (self.background, _), *drawn = layers.items()
        self.view, self.layers = view, {name: tuple(geoms) for name, geoms in drawn}
        self._textures: TextureBank | None = None
        self._types = model.geom_type.tolist()
        self._straight = {  # boxes of the world itself along its axes, which never turn
            geom
            for geom, (kind, body, quat) in enumerate(
                zip(self._types, model.geom_bodyid, model.geom_quat.tolist(), strict=True)
            )
            if kind == BOX and body == 0 and quat == [1.0, 0.0, 0.0, 0.0]
        }
        self._growing = torch.from_numpy(growing_sizes(model))
        self._sizes = torch.from_numpy(model.geom_size.astype("float32"))
        for geom in (geom for geoms in self.layers.values() for geom in geoms):
            if self._types[geom] not in (SPHERE, CAPSULE, BOX):
                raise ValueError(f"geoms must be spheres, capsules or boxes, got {model.geom(geom).name!r}")

    def __call__(
        self,
        centres: Tensor,
        rotations: Tensor,
        colours: Mapping[str, Tensor],
        looks: Looks | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Return uint8 ``(B, 3, S, S)``.

        Args:
            centres: of the geoms, ``(B, G, 3)``.
            rotations: ``(B, G, 3, 3)``.
            colours: name of a layer -> ``(B, 3)``, 0 to 255.
            looks: what else is to be seen; None for nothing.
            sizes: of the geoms, ``(B, G, 3)``; None for the model's.
        """
        num, size = len(centres), self.view.size
        if sizes is None:
            sizes = self._sizes.to(centres.device).expand(num, -1, -1)
        if looks is not None:
            centres, sizes = self._through_camera(centres, sizes, looks)
        pixels = torch.empty((num, 3, size, size), dtype=torch.uint8, device=centres.device)
        steps = chunks(num, 3 * size * size, pixels.device)
        for start in steps:
            part = slice(start, start + steps.step)
            image = (
                colours[self.background][part].to(torch.float32)[:, :, None, None].expand(-1, 3, size, size)
            )
            if looks is not None and looks.has_backdrop:
                image = self._backdrop(image, looks.part(part))
            for name, geoms in self.layers.items():
                shown = self._cover(centres[part], rotations[part], sizes[part], geoms)  # (b, S, S)
                colour = colours[name][part].to(torch.float32)[:, :, None, None]
                image = torch.lerp(image, colour, shown[:, None])
            store_uint8(pixels[part], image.clone() if image.stride(-1) == 0 else image)
        return pixels

    def _through_camera(self, centres: Tensor, sizes: Tensor, looks: Looks) -> tuple[Tensor, Tensor]:
        """Return centres and sizes of the geoms as a shifted camera sees them that enlarges."""
        centres = centres.clone()
        centres[..., :2] = (centres[..., :2] - looks.shift[:, None]) * looks.zoom[:, None, None]
        sizes = sizes * looks.zoom[:, None, None]
        for name, factor in looks.sizes.items():
            geoms = list(self.layers[name])
            growing = self._growing[geoms].to(sizes.device)
            sizes[:, geoms] *= torch.where(growing, factor[:, None, None], 1.0)
        return centres, sizes

    def _backdrop(self, image: Tensor, looks: Looks) -> Tensor:
        """Lay textures and distractors over the backgrounds ``(b, 3, S, S)``."""
        if self._textures is None:
            self._textures = smooth_bank(self.view.size, image.device)
        image = looks.textured(image, self._textures)
        axis = self.view.centres(image.device)
        for centre, radius, colour, is_there in looks.distractors(self.view.half_width):
            x, y = (
                axis[None, None, :] - centre[:, 0, None, None],
                axis[None, :, None] - centre[:, 1, None, None],
            )
            distance = (x * x + y * y).sqrt() - radius[:, None, None]
            shown = (0.5 - distance / self.view.pixel).clamp(0.0, 1.0) * is_there[:, None, None]
            image = torch.lerp(image, colour[:, :, None, None], shown[:, None])
        return image

    def _cover(self, centres: Tensor, rotations: Tensor, sizes: Tensor, geoms: Sequence[int]) -> Tensor:
        """Return the share of every pixel that some of the geoms cover, ``(b, S, S)``."""
        straight = [geom for geom in geoms if geom in self._straight]
        shown = self._boxes(centres[:, straight], sizes[:, straight]) if straight else None
        for geom in geoms:
            if geom not in straight:
                one = self._shape(geom, centres[:, geom, :2], rotations[:, geom], sizes[:, geom])
                shown = one if shown is None else torch.maximum(shown, one)
        assert shown is not None
        return shown

    def _boxes(self, centres: Tensor, sizes: Tensor) -> Tensor:
        """Axis-aligned boxes that do not overlap: the sum of outer products of what they cover of rows and columns."""
        num, count, _ = centres.shape
        axis = self.view.centres(centres.device)
        cols, rows = (
            coverage_profile(axis, self.view.pixel, (at - half).flatten(), (at + half).flatten()).view(
                num, count, -1
            )
            for at, half in ((centres[..., 0], sizes[..., 0]), (centres[..., 1], sizes[..., 1]))
        )
        return (rows.transpose(1, 2) @ cols).clamp_max_(1.0)

    def _shape(self, geom: int, centre: Tensor, rotation: Tensor, size: Tensor) -> Tensor:
        axis = self.view.centres(centre.device)
        x = axis[None, None, :] - centre[:, 0, None, None]  # (b, 1, S)
        y = axis[None, :, None] - centre[:, 1, None, None]  # (b, S, 1)
        kind = self._types[geom]
        if kind == SPHERE:
            distance = (x * x + y * y).sqrt_() - size[:, 0, None, None]
        elif kind == CAPSULE:  # along the z axis of its frame
            half = rotation[:, :2, 2] * size[:, 1, None]  # (b, 2), from the centre to an end
            hx, hy = half[:, 0, None, None], half[:, 1, None, None]
            along = (x * hx + y * hy) / (hx * hx + hy * hy).clamp_min(1e-12)
            along = along.clamp_(-1.0, 1.0)
            distance = ((x - along * hx).square_() + (y - along * hy).square_()).sqrt_() - size[
                :, 0, None, None
            ]
        else:
            cos, sin = rotation[:, 0, 0, None, None], rotation[:, 1, 0, None, None]
            across = (cos * x + sin * y).abs_() - size[:, 0, None, None]
            down = (cos * y - sin * x).abs_() - size[:, 1, None, None]
            outside = (across.clamp_min(0).square_() + down.clamp_min(0).square_()).sqrt_()
            distance = outside + torch.maximum(across, down).clamp_max_(0)
        return (0.5 - distance / self.view.pixel).clamp_(0.0, 1.0)
