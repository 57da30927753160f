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

# This module's functions have the default group as a default argument, evaluated at import. Imported late (an optimizer
# or DDP does it), they would keep the group and its threads past destroy_process_group, and a thread that is still
# there when the interpreter ends can abort a process that has done all its work.
import torch.distributed.nn.functional
from torch import Tensor, nn

T = TypeVar("T")


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes; ``(0, 1)`` without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def start_process_group(device: torch.device | str) -> torch.device:
    """Join the process group that ``torchrun`` describes in the environment, if there is one.

    Args:
        device: ``cpu`` for gloo; ``cuda`` for NCCL, with one GPU per local rank.

    Returns:
        This process's device.
    """
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


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
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad[ctx.rows]


class _SumOverRanks(torch.autograd.Function):
    """All-reduce a sum; so is the gradient, since every rank's loss depends on every rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad


class JointBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the joint batch of all ranks, on any device (torch's SyncBatchNorm is for GPUs)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalise ``(M, C, h, w)``."""
        if not self.training or rank_and_world_size()[1] == 1:
            return super().forward(input)
        axes = (0, 2, 3)
        count = torch.tensor([input.numel() / input.shape[1]], device=input.device)
        total = _SumOverRanks.apply(torch.cat([count, input.sum(axes), input.square().sum(axes)]))
        number, channels = total[0], input.shape[1]
        mean, mean_square = total[1 : channels + 1] / number, total[channels + 1 :] / number
        var = mean_square - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * number / (number - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return input * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


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
