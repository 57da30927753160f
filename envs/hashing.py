"""Counter-based random numbers: pure functions of integer keys, the same on every device.

A simulator keeps ``seed`` and ``step`` in its state and derives its noise from them, so a transition needs no
generator and equal states have equal futures. The mixer is the 64-bit finalizer of SplitMix (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Reinterpret an unsigned 64-bit constant as the int64 that has the same bits."""
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_xor(bits: Tensor, shift: int) -> Tensor:
    return bits ^ ((bits >> shift) & (2 ** (64 - shift) - 1))  # the mask makes the shift logical


def _mix(bits: Tensor) -> Tensor:
    bits = _shift_xor(bits, 30) * _MIX_1
    bits = _shift_xor(bits, 27) * _MIX_2
    return _shift_xor(bits, 31)


def hash_bits(seed: Tensor, *keys: Tensor | int) -> Tensor:
    """Hash broadcastable int64 tensors and integers to 64 well-mixed bits, as int64."""
    bits = _mix(seed + _GOLDEN)
    for key in keys:
        salt = _signed((key + 1) * _GOLDEN % 2**64) if isinstance(key, int) else (key + 1) * _GOLDEN
        bits = _mix(bits + salt)
    return bits


def hash_uniform(seed: Tensor, *keys: Tensor | int) -> Tensor:
    """Return float32 uniforms in [0, 1) that depend on the keys only."""
    return ((hash_bits(seed, *keys) >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def hash_randint(high: int, seed: Tensor, *keys: Tensor | int) -> Tensor:
    """Return int64 integers in [0, high) that depend on the keys only; ``high`` is far below 2^31."""
    return ((hash_bits(seed, *keys) >> 32) & 0x7FFFFFFF) % high


def hash_normal(seed: Tensor, step: Tensor, num: int) -> Tensor:
    """Return standard normals ``(B, num)`` for ``seed (B,)`` and ``step (B,)`` (Box-Muller)."""
    column = torch.arange(num, device=seed.device)
    seed, step = seed[:, None], step[:, None]
    radius = (-2.0 * torch.log1p(-hash_uniform(seed, step, 2 * column))).sqrt()
    return radius * torch.cos(2.0 * math.pi * hash_uniform(seed, step, 2 * column + 1))
