"""Data parallelism: batch statistics over all ranks, so that many processes compute the loss of one.

Under ``torchrun`` every rank draws the same global batch and keeps its slice. Terms such as the variance are not means
over rows, so embeddings are gathered, with gradients, before the objective: each rank computes the joint loss, the
gradient of the gather sums over ranks and DDP's average divides by their number, which leaves the joint gradient.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes; ``(0, 1)`` without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def start_process_group() -> bool:
    """Join the process group that ``torchrun`` describes in the environment; false when there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return False
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return True


def stop_process_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class _GatherRows(torch.autograd.Function):
    """All-gather along the rows; the gradient of a rank's rows is summed over the ranks that used them."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401
        rank, world_size = rank_and_world_size()
        ctx.rows = slice(rank * len(tensor), (rank + 1) * len(tensor))
        parts = [torch.empty_like(tensor) for _ in range(world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[ctx.rows]


def gather_rows(tensor: Tensor) -> Tensor:
    """Join the rows of all ranks, ``(B, ...)`` each, to ``(world_size * B, ...)``; differentiable."""
    if rank_and_world_size()[1] == 1:
        return tensor
    return _GatherRows.apply(tensor)


def gather_outputs(outputs: T) -> T:
    """Join the rows of every tensor field of a dataclass over the ranks."""
    if rank_and_world_size()[1] == 1:
        return outputs
    joined = {f.name: getattr(outputs, f.name) for f in fields(outputs)}  # type: ignore[arg-type]
    joined = {k: gather_rows(v) if isinstance(v, Tensor) else v for k, v in joined.items()}
    return replace(outputs, **joined)  # type: ignore[type-var]
