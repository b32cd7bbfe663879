"""Batch normalisation over the batches of all workers.

torch's SyncBatchNorm has no CPU kernels. On GPUs it makes the host wait three times for each norm,
to leave out workers without samples, and interrupts the graph of torch.compile. Workers share a
batch equally here, so that their moments can be averaged: a run is the same, to rounding, for any
number of workers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d over the batch of all workers, each of which has an equal share of it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise float [B, C, T, H, W] by the mean and variance over all workers' B."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        features = input.float()  # moments of bfloat16 would be coarse
        own_variance, own_mean = torch.var_mean(features, dim=(0, 2, 3, 4), correction=0)
        # from the running mean, which is equal on all workers: a variance that is the difference of
        # two large numbers would lose digits
        origin = self.running_mean.clone()
        shift = own_mean - origin
        moments = torch.stack([shift, own_variance + shift.square()])
        shift, second = _SumOverWorkers.apply(moments) / dist.get_world_size()
        mean, variance = origin + shift, second - shift.square()
        # of values in a channel, over all workers
        count = input.numel() / input.shape[1] * dist.get_world_size()
        # torch, too, normalises by the biased variance and tracks the unbiased one
        self._track(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        centered = features - mean[:, None, None, None]
        normed: Tensor = centered * scale[:, None, None, None] + self.bias[:, None, None, None]
        return normed.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)


class _SumOverWorkers(torch.autograd.Function):
    """The sum over all workers. The gradient reaches the other workers' clips, too.

    torch.distributed.nn has it as well, but torch.compile does not trace it.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def synchronise_norms(module: nn.Module, *, also_alone: bool = False) -> None:
    """Make every batch normalisation inside `module` one over all workers, in place.

    Parameters, buffers and their names stay.

    Args:
        module: the model.
        also_alone: also in a process group of one, to measure what it costs. Otherwise nothing
            changes with one worker.
    """
    if not dist.is_initialized() or (dist.get_world_size() == 1 and not also_alone):
        return
    for part in module.modules():
        # exactly this class: a subclass may normalise in another way
        if type(part) is nn.BatchNorm3d:
            # in place: the module keeps its parameters, buffers, hooks and name
            part.__class__ = SyncBatchNorm3d
