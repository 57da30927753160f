"""Images of Two Rooms at any size: two channels (dot, walls) or RGB."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.rendering import chunks, coverage_profile, gaussian_profile, outer, pixel_centres, store_uint8
from envs.state import State, num_worlds
from envs.two_rooms_geometry import BORDER, WORLD_SIZE

COLORS: dict[str, tuple[int, int, int]] = {  # default colours of RGB images
    "dot_color": (214, 40, 40),
    "wall_color": (38, 50, 72),
    "background_color": (245, 243, 238),
}


class TwoRoomsRenderer:
    """Draws states; holds only what is the same in every image of one size.

    The dot is a Gaussian with peak 255. Images smaller than the world average over a pixel's area: walls by
    the exact share of the pixel they cover, the dot by adding the variance of a box one image pixel wide.
    """

    def __init__(self, image_size: int, rgb: bool, device: torch.device) -> None:
        self.image_size, self.rgb = image_size, rgb
        self.pixel = WORLD_SIZE / image_size  # world pixels per image pixel
        self.centres = pixel_centres(image_size, WORLD_SIZE, device)
        low, high = (torch.tensor([float(side)], device=device) for side in BORDER)
        outer = coverage_profile(self.centres, self.pixel, low - 0.5, high + 0.5)
        self.inner = coverage_profile(self.centres, self.pixel, low + 0.5, high - 0.5)  # (1, S)
        self.border = outer.T @ outer - self.inner.T @ self.inner  # (S, S), share of border line

    def __call__(self, state: State) -> Tensor:
        """Return uint8 ``(B, C, S, S)``; C is 2 (dot, walls) or 3 (RGB)."""
        num, size = num_worlds(state), self.image_size
        peak = 1.0 if self.rgb else 255.0
        dot_x, dot_y = self._dot_profiles(state, peak)
        wall_x, wall_y = self._wall_profiles(state, peak)
        border = self.border * peak
        pixels = torch.empty((num, 3 if self.rgb else 2, size, size), dtype=torch.uint8, device=dot_x.device)
        starts = chunks(num, size * size, pixels.device)
        for start in starts:
            part = slice(start, start + starts.step)
            dot = outer(dot_y[part], dot_x[part])  # (b, S, S) in [0, peak]
            walls = outer(wall_y[part], wall_x[part]).add_(border)
            if self.rgb:
                store_uint8(pixels[part], self._composite(state, part, dot, walls))
            else:
                store_uint8(pixels[part, 0], dot)
                store_uint8(pixels[part, 1], walls)
        return pixels

    def _dot_profiles(self, state: State, peak: float) -> tuple[Tensor, Tensor]:
        box_var = (max(self.pixel, 1.0) ** 2 - 1.0) / 12.0
        std = (state["dot_size"].square() + box_var).sqrt()
        x, y = state["position"].unbind(-1)
        return gaussian_profile(self.centres, x, std), peak * gaussian_profile(self.centres, y, std)

    def _wall_profiles(self, state: State, peak: float) -> tuple[Tensor, Tensor]:
        half_width, half_door = state["wall_width"] / 2, state["door_size"] / 2
        wall_x, door_y = state["wall_x"], state["door_y"]
        across = coverage_profile(self.centres, self.pixel, wall_x - half_width, wall_x + half_width)
        low = (door_y - half_door).clamp_min(BORDER[0] + 0.5)
        high = (door_y + half_door).clamp_max(BORDER[1] - 0.5)
        along = self.inner - coverage_profile(self.centres, self.pixel, low, high)
        return across, peak * along

    def _composite(self, state: State, part: slice, dot: Tensor, walls: Tensor) -> Tensor:
        """Lay the walls over the background and the dot over both: ``(b, 3, S, S)`` floats in [0, 255]."""

        def colour(name: str) -> Tensor:
            value = state[name][part] if name in state else torch.tensor([COLORS[name]], device=dot.device)
            return value.to(torch.float32)[:, :, None, None]

        image = torch.lerp(colour("background_color"), colour("wall_color"), walls[:, None])
        return torch.lerp(image, colour("dot_color"), dot[:, None])


def world_to_image(position: Tensor, image_size: int) -> Tensor:
    """Convert world coordinates ``(..., 2)`` to pixel indices of an S-pixel image (fractions kept)."""
    return (position + 0.5) * (image_size / WORLD_SIZE) - 0.5
