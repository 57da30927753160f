"""One seed for a run, independent streams for its parts."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a seed for the named part of a run: a function of ``seed`` and ``parts``, below 2^31."""
    words = [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts)]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def make_generator(seed: int, *parts: str | int) -> torch.Generator:
    """Return a CPU generator for the named part of a run."""
    return torch.Generator().manual_seed(derive_seed(seed, *parts))
