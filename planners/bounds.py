"""The set of allowed actions: a box, and optionally a ball around zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.checks import require, require_shape


@dataclass(frozen=True, eq=False)
class ActionBounds:
    """Allowed actions: ``low <= action <= high`` and, if set, ``||action||_2 <= max_norm``.

    Both sets are convex, so the mean of allowed actions is allowed too. With ``max_norm`` the box has to
    contain
    zero: only then does scaling an action onto the ball leave it inside the box.

    Raises:
        ValueError: the bounds are not ``(A,)``, cross each other, or exclude zero while ``max_norm`` is set.
    """

    low: Tensor  # (A,) [action units], -inf where there is no bound
    high: Tensor  # (A,) [action units]
    max_norm: float | None = None  # radius of the ball around zero [action units]

    def __post_init__(self) -> None:
        require_shape("low", self.low, ("A",))
        require_shape("high", self.high, tuple(self.low.shape))
        require(
            bool((self.low <= self.high).all()), "low", f"<= high {self.high.tolist()}", self.low.tolist()
        )
        if self.max_norm is not None:
            require(self.max_norm > 0, "max_norm", "> 0", self.max_norm)
            holds_zero = bool(((self.low <= 0) & (self.high >= 0)).all())
            box = (self.low.tolist(), self.high.tolist())
            require(holds_zero, "the box", "around 0 where max_norm is set", box)

    @property
    def action_dim(self) -> int:
        """A, the number of action components."""
        return self.low.shape[0]

    def project(self, actions: Tensor) -> Tensor:
        """Clip actions ``(..., A)`` to the box, then scale those outside the ball onto it."""
        clipped = torch.clamp(actions, self.low, self.high)
        if self.max_norm is None:
            return clipped
        norm = torch.linalg.vector_norm(clipped, dim=-1, keepdim=True)
        return clipped * (self.max_norm / norm).clamp_max(1.0)  # norm 0 divides to inf, clamped to 1

    def contains(self, actions: Tensor, tol: float = 1e-5) -> Tensor:
        """Tell which actions of ``(..., A)`` are allowed up to ``tol`` [action units]; bool ``(...)``."""
        inside = ((actions >= self.low - tol) & (actions <= self.high + tol)).all(dim=-1)
        if self.max_norm is None:
            return inside
        return inside & (torch.linalg.vector_norm(actions, dim=-1) <= self.max_norm + tol)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "ActionBounds":
        """Return the same bounds on another device, and in another dtype if one is given."""
        dtype = self.low.dtype if dtype is None else dtype
        low, high = self.low.to(device, dtype), self.high.to(device, dtype)
        return self if low is self.low and high is self.high else ActionBounds(low, high, self.max_norm)
