"""Banks of background images that distractors are cropped from.

A bank is computed once; a frame's background is a crop at an offset, so a distractor costs a copy and no
random number per pixel. Train and eval crops come from disjoint images of the bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_BANK_SEED = 2211_10831  # banks are part of the environment: the same in every process
_NUM_UNIFORM, _UNIFORM_SIZE = 20, 440  # 4 MB of i.i.d. pixels
_NUM_SMOOTH, _SMOOTH_SIZE = 60, 128
_OCTAVES = (4, 8, 16, 32)  # cells per side; each octave has half the amplitude of the one before


@dataclass(frozen=True)
class TextureBank:
    """Images to crop from; every offset below ``span`` is valid, and a rolling offset wraps around at it."""

    images: Tensor  # uint8 (M, rows, cols)
    span: tuple[int, int]  # number of row and column offsets
    crop_size: int
    num_train: int  # images [0, num_train) are train, the rest eval (all are both where there is only one)

    def image_range(self, is_eval: Tensor) -> tuple[Tensor, Tensor]:
        """Return first image and number of images for each world, int64 ``(B,)`` each."""
        num = self.images.shape[0]
        if num == self.num_train:
            return torch.zeros_like(is_eval, dtype=torch.int64), torch.full_like(
                is_eval, num, dtype=torch.int64
            )
        first = torch.where(is_eval, self.num_train, 0)
        return first, torch.where(is_eval, num - self.num_train, self.num_train)

    def crop(self, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Return uint8 crops ``(B, S, S)`` at int64 image, row and column ``(B,)``; offsets wrap around."""
        _, rows, cols = self.images.shape
        size = self.crop_size
        start = (image * rows + row % self.span[0]) * cols + col % self.span[1]
        lines = (
            start[:, None] + torch.arange(size, device=start.device) * cols
        )  # (B, S) where each line begins
        flat = self.images.view(-1)
        windows = flat.as_strided((flat.numel() - size + 1, size), (1, 1))  # every run of S pixels, no copy
        return windows.index_select(0, lines.view(-1)).view(-1, size, size)


def uniform_bank(crop_size: int, device: torch.device) -> TextureBank:
    """Return a bank of i.i.d. uniform pixels."""
    generator = torch.Generator().manual_seed(_BANK_SEED)
    shape = (_NUM_UNIFORM, _UNIFORM_SIZE, _UNIFORM_SIZE)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return _periodic_bank(images, crop_size, device)


def smooth_bank(crop_size: int, device: torch.device) -> TextureBank:
    """Return a bank of periodic textures: octaves of smooth noise, stretched to [0, 255] per image."""
    generator = torch.Generator().manual_seed(_BANK_SEED)
    total = torch.zeros(_NUM_SMOOTH, _SMOOTH_SIZE, _SMOOTH_SIZE)
    for octave, cells in enumerate(_OCTAVES):
        grid = torch.randn((_NUM_SMOOTH, 1, cells, cells), generator=generator)
        cell = _SMOOTH_SIZE // cells
        tiled = F.pad(grid, (2, 2, 2, 2), mode="circular")  # bicubic interpolation looks two cells far
        smooth = F.interpolate(tiled, scale_factor=cell, mode="bicubic", align_corners=False)
        total += smooth[:, 0, 2 * cell : -2 * cell, 2 * cell : -2 * cell] * 0.5**octave
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    images = ((total - low) / (high - low) * 255.0).round().to(torch.uint8)
    return _periodic_bank(images, crop_size, device)


def user_bank(
    textures: np.ndarray | Tensor, crop_size: int, rolling: bool, device: torch.device
) -> TextureBank:
    """Return a bank of the user's images.

    Args:
        textures: ``(M, rows, cols)`` or ``(rows, cols)``; uint8, or floats in [0, 1].
        crop_size: S; images must be at least this large.
        rolling: Mirror the images, so that a rolling crop meets no seam.
        device: Where the bank lives.

    Raises:
        ValueError: Wrong dtype, range, number of axes or size.
    """
    images = torch.as_tensor(textures)
    images = images[None] if images.ndim == 2 else images
    if images.ndim != 3 or images.shape[0] == 0 or min(images.shape[1:]) < crop_size:
        raise ValueError(
            f"textures must have shape (images, rows, cols) with rows and cols of at least {crop_size}, "
            f"got {tuple(images.shape)}"
        )
    if images.is_floating_point():
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError(
                f"textures of floats must lie in [0, 1], got [{float(images.min())}, {float(images.max())}]"
            )
        images = (images * 255.0).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise ValueError(f"textures must be uint8 or floats, got {images.dtype}")
    if rolling:
        images = torch.cat([images, images.flip(1)], 1)
        return _periodic_bank(torch.cat([images, images.flip(2)], 2), crop_size, device)
    span = (images.shape[1] - crop_size + 1, images.shape[2] - crop_size + 1)
    return TextureBank(images.contiguous().to(device), span, crop_size, _num_train(images.shape[0]))


def _periodic_bank(images: Tensor, crop_size: int, device: torch.device) -> TextureBank:
    """Append the first S rows and columns, so that every offset of a periodic image is a plain crop."""
    num, rows, cols = images.shape
    images = torch.cat([images, images[:, : crop_size - 1]], 1)
    images = torch.cat([images, images[:, :, : crop_size - 1]], 2).contiguous()
    return TextureBank(images.to(device), (rows, cols), crop_size, _num_train(num))


def _num_train(num: int) -> int:
    return num if num == 1 else num - max(1, num // 5)
