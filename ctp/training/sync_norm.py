"""Batch normalisation over the batches of all workers.

On GPUs it is torch's SyncBatchNorm. That has no CPU kernels, so on CPUs the batch moments are
averaged over the workers here: a run is the same, to rounding, for any number of workers.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class CpuSyncBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d over the batch of all workers, each of which has an equal share of it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise float [B, C, T, H, W] by the mean and variance over all workers' B."""
        if not self.training:
            return super().forward(input)
        axes = (0, 2, 3, 4)
        features = input.float()  # moments of bfloat16 would be coarse
        mean = _mean_over_workers(features.mean(dim=axes))
        # two passes: E[x²] - E[x]² in one loses digits where the mean is large
        centered = features - mean[:, None, None, None]
        variance = _mean_over_workers(centered.square().mean(dim=axes))
        # of values in a channel, over all workers
        count = input.numel() / input.shape[1] * dist.get_world_size()
        # torch, too, normalises by the biased variance and tracks the unbiased one
        self._track(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normed = centered * scale[:, None, None, None] + self.bias[:, None, None, None]
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


def _mean_over_workers(value: Tensor) -> Tensor:
    # differentiable: the gradient reaches the other workers' clips through the moments
    total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()


def synchronise_norms(module: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation inside `module` one over all workers, in place.

    Parameters, buffers and their names stay. With one worker nothing changes.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for part in module.modules():
        # exactly this class: a subclass may normalise in another way
        if type(part) is nn.BatchNorm3d:
            # in place: the module keeps its parameters, buffers, hooks and name
            part.__class__ = CpuSyncBatchNorm3d
