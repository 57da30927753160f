"""Checks at the boundary of the package: *X must be RULE, got VALUE*."""

from numbers import Integral

import torch
from torch import Tensor


def require(holds: bool, name: str, rule: str, value: object) -> None:
    """Raise ``ValueError`` with the rule and the value received unless the rule holds."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def require_count(name: str, value: object, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    require(int(value) >= minimum, name, f">= {minimum}", value)


def require_shape(name: str, value: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raise unless the tensor has this shape; a letter in ``shape`` stands for any positive size."""
    matches = value.ndim == len(shape) and all(
        size == want if isinstance(want, int) else size >= 1
        for size, want in zip(value.shape, shape, strict=True)
    )
    wanted = ", ".join(str(want) for want in shape)
    require(matches, name, f"of shape ({wanted})", tuple(value.shape))


def require_finite(name: str, value: Tensor) -> None:
    """Raise if an entry of the tensor is NaN or infinite."""
    is_finite = torch.isfinite(value)
    if not bool(is_finite.all()):
        raise ValueError(f"{name} must be finite, got {value[~is_finite][0].item()} among its entries")
