"""Starts that are not of the data: imagination goes on where it ended.

Who acts comes to places that the data seldom show. Part of a batch therefore begins where the imagination of the last
batch ended, with the goals that it had there; a tenth of them begin afresh each time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

AFRESH = 0.1  # share of the carried starts that begin again at a start of the data


class CarriedStarts(nn.Module):
    """Some starts and goals of the next batch, as buffers: a training that is resumed goes on with them.

    Args:
        num: how many are carried, from the first to the last of a batch.
        size: of an embedding, flat.
        seed: which ones is a function of ``(seed, step)``.
    """

    def __init__(self, num: int, size: int, seed: int) -> None:
        super().__init__()
        self.num, self.seed = num, seed
        self.register_buffer("start", torch.zeros(num, size))
        self.register_buffer("goal", torch.zeros(num, size))

    def mix(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Return starts and goals ``(M, D)`` of ``batch``, of which the first are replaced from the second step on."""
        if step == 0:
            return batch["start"], batch["goal"]
        start, goal = (
            torch.cat([self.get_buffer(name), batch[name][self.num :]]) for name in ("start", "goal")
        )
        return start, goal

    @torch.no_grad()
    def keep(self, ahead: Tensor, goal: Tensor, batch: Mapping[str, Tensor], step: int) -> None:
        """Choose some of the places ``ahead (M, D)`` that were reached on the way to ``goal (M, D)``."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        kept = torch.randperm(len(ahead), generator=generator)[: self.num].to(ahead.device)
        begins = (torch.rand(self.num, 1, generator=generator) < AFRESH).to(ahead.device)
        self.get_buffer("start").copy_(torch.where(begins, batch["start"][: self.num], ahead[kept]))
        self.get_buffer("goal").copy_(torch.where(begins, batch["goal"][: self.num], goal[kept]))
