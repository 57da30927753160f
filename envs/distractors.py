"""Distractors: a background image that is a pure function of a world's seed and step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.hashing import hash_randint, hash_uniform
from envs.textures import TextureBank, smooth_bank, uniform_bank, user_bank

ROLL_SPEED = 1.0  # of a rolling distractor, half the moving dot's mean speed [px per step]

# Streams of the counter-based generator: one number per use of a seed.
_IMAGE, _ROW, _COL, _ROLL = range(200, 204)


class Distractor:
    """Crops backgrounds from a bank of textures; the seed's last bit chooses train (0) or eval (1) images.

    Args:
        kind: "uniform" or "structured".
        motion: "fixed" (the crop depends on the seed), "changing" (on seed and step) or "rolling" (it moves
            by ``ROLL_SPEED`` in a direction that depends on the seed, rounded to whole pixels).
        crop_size: S.
        textures: The user's images for "structured", or the path of a ``.npy`` file; None generates them.
        device: Where the bank lives.
    """

    def __init__(
        self,
        kind: str,
        motion: str,
        crop_size: int,
        textures: np.ndarray | Tensor | str | Path | None,
        device: torch.device,
    ) -> None:
        self.motion = motion
        self.bank = _make_bank(kind, motion, crop_size, textures, device)

    def offset(self, seed: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, row and column to crop at, each int64 ``(B,)`` like ``seed`` and ``step``."""
        first, count = self.bank.image_range(seed % 2 == 1)
        when = step if self.motion == "changing" else torch.zeros_like(step)
        image = first + hash_randint(2**31 - 1, seed, _IMAGE, when) % count
        row = hash_randint(self.bank.span[0], seed, _ROW, when)
        col = hash_randint(self.bank.span[1], seed, _COL, when)
        if self.motion == "rolling":
            angle = 2.0 * math.pi * hash_uniform(seed, _ROLL)
            row = row + (ROLL_SPEED * step * angle.sin()).round().long()
            col = col + (ROLL_SPEED * step * angle.cos()).round().long()
        return image, row, col


def _make_bank(
    kind: str,
    motion: str,
    crop_size: int,
    textures: np.ndarray | Tensor | str | Path | None,
    device: torch.device,
) -> TextureBank:
    if kind == "uniform":
        return uniform_bank(crop_size, device)
    if textures is None:
        return smooth_bank(crop_size, device)
    images = np.load(textures, allow_pickle=False) if isinstance(textures, str | Path) else textures
    return user_bank(images, crop_size, motion == "rolling", device)
