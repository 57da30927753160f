"""Separable rendering: images as outer products of one profile per axis, in chunks that stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 2**20  # size of one float32 buffer on a CPU; a handful of them stays in a core's cache
GPU_CHUNK_BYTES = 2**28  # elsewhere, where what counts is that there are few


def pixel_centres(image_size: int, world_size: int, device: torch.device) -> Tensor:
    """Return ``(S,)`` world coordinates [px of the world] of the pixel centres of an S-pixel axis."""
    index = torch.arange(image_size, dtype=torch.float32, device=device)
    return (index + 0.5) * (world_size / image_size) - 0.5


def gaussian_profile(centres: Tensor, position: Tensor, std: Tensor | float) -> Tensor:
    """Return ``exp(-(centre - position)^2 / (2 std^2))`` as ``(B, S)`` for ``position (B,)``."""
    scaled = (centres - position[:, None]) / (std[:, None] if isinstance(std, Tensor) else std)
    return torch.exp(-0.5 * scaled * scaled)


def coverage_profile(centres: Tensor, pixel: float, low: Tensor, high: Tensor) -> Tensor:
    """Return ``(B, S)``: the share of each pixel that [low, high] covers; both ends are ``(B,)``."""
    upper = torch.minimum(centres + pixel / 2, high[:, None])
    lower = torch.maximum(centres - pixel / 2, low[:, None])
    return ((upper - lower) / pixel).clamp(0.0, 1.0)


def outer(rows: Tensor, cols: Tensor) -> Tensor:
    """Return the images ``(..., S, S)`` whose pixel (i, j) is ``rows[..., i] * cols[..., j]``."""
    return rows[..., :, None] * cols[..., None, :]


def store_uint8(pixels: Tensor, values: Tensor) -> None:
    """Round ``values`` in [0, 255] (overwritten) into the uint8 tensor ``pixels`` of the same shape.

    The way through int16 is vectorised on a CPU, the direct one is not: it takes eight times as long.
    """
    pixels.copy_(values.add_(0.5).to(torch.int16))


def chunks(num: int, floats_per_image: int, device: torch.device) -> range:
    """Return chunk starts; ``range.step`` is the number of images whose floats fit a chunk of the device."""
    size = CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
    return range(0, num, max(1, size // (4 * floats_per_image)))
