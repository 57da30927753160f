"""The data policy of Push-T: independent noise moves the block in one step of thirty, aiming at it in every second."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.simulator import Simulator, clip_norm
from envs.state import State, num_worlds


class BlockWaypoints:
    """Heads straight for random places in the block's own frame, so that most ways lead through the block.

    Args:
        reach: places are uniform in a square of this half width around the block's centre.
        patience: steps for one place are uniform in 1 .. ``patience``.
        speed_min: the speed is drawn with the place, uniform from here to 1 [action units].
    """

    def __init__(self, reach: float = 0.45, patience: int = 12, speed_min: float = 0.3) -> None:
        if not (reach > 0 and patience >= 1 and 0 <= speed_min <= 1):
            raise ValueError(
                f"reach must be > 0, patience >= 1 and speed_min in [0, 1], got {reach}, {patience} and {speed_min}"
            )
        self.reach, self.patience, self.speed_min = reach, patience, speed_min
        self._place = torch.empty(0)  # (B, 2) in the block's frame
        self._speed = torch.empty(0)  # (B, 1)
        self._left = torch.empty(0, dtype=torch.int64)  # (B,) steps

    def reset(self, sim: Simulator, state: State, generator: torch.Generator) -> None:  # noqa: ARG002
        """Forget the places.

        Raises:
            ValueError: the simulator has no block.
        """
        num = num_worlds(state)
        if state.get("position", torch.empty(num, 0)).shape[1] != 5:
            raise ValueError(f"BlockWaypoints must be used in Push-T, got {sim.env_id}")
        self._place = torch.zeros((num, 2), device=sim.device)
        self._speed = torch.zeros((num, 1), device=sim.device)
        self._left = torch.zeros(num, dtype=torch.int64, device=sim.device)

    def act(self, sim: Simulator, state: State, generator: torch.Generator) -> Tensor:
        """Return ``(B, 2)``."""
        num = num_worlds(state)
        drawn = torch.rand((num, 4), generator=generator, device=generator.device).to(sim.device)
        is_done = self._left <= 0
        place = self.reach * (2.0 * drawn[:, :2] - 1.0)
        speed = self.speed_min + (1.0 - self.speed_min) * drawn[:, 2:3]
        steps = (1 + self.patience * drawn[:, 3]).long().clamp(max=self.patience)
        self._place = torch.where(is_done[:, None], place, self._place)
        self._speed = torch.where(is_done[:, None], speed, self._speed)
        self._left = torch.where(is_done, steps, self._left) - 1
        cos, sin = state["position"][:, 4].cos(), state["position"][:, 4].sin()
        x, y = self._place.unbind(1)
        target = state["position"][:, 2:4] + torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
        return self._speed * clip_norm(20.0 * (target - state["position"][:, :2]), 1.0)
