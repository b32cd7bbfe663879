"""The model that catches the patch, and its loss (§3.1, §3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.geometry import apply_offsets, box_offsets
from ctp.models.resnet3d import ResNet3d
from ctp.models.track_head import TrackHead
from ctp.pretext.config import PretrainConfig
from ctp.training.step import Loss


class CtpModel(nn.Module):
    """Encoder and head.

    Attributes:
        encoder: what is pretrained.
        head: what turns its features into boxes.
        sigma: float32 [4], scales of the offsets.
    """

    sigma: Tensor

    def __init__(self, config: PretrainConfig):
        super().__init__()
        self.encoder = ResNet3d(config.encoder)
        self.head = TrackHead(config.head, self.encoder, config.sampling.num_frames)
        self.register_buffer("sigma", torch.tensor(config.sigma), persistent=False)

    def forward(self, clips: Tensor, queries: Tensor) -> Tensor:
        """Predict offsets.

        Args:
            clips: float [B, 3, T, H, W], normalised.
            queries: float32 [B, K, 4], the boxes in the first frame.

        Returns:
            float32 [B, K, T, 4].
        """
        offsets: Tensor = self.head(self.encoder(clips), queries)
        return offsets.float()

    def track(self, clips: Tensor, queries: Tensor) -> Tensor:
        """Predict boxes, float32 [B, K, T, 4] xyxy pixels; arguments as of `forward`."""
        return apply_offsets(queries[:, :, None], self(clips, queries), self.sigma)


def build_model(config: PretrainConfig) -> CtpModel:
    """A model with fresh weights that follow from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return CtpModel(config)


def tracking_loss(offsets: Tensor, boxes: Tensor, sigma: Tensor) -> Loss:
    """Smooth-L1 (β = 1) between predicted and true offsets from the first box (§3.2).

    Summed over the four offsets, averaged over frames, boxes and clips.

    Args:
        offsets: float32 [B, K, T, 4], predicted.
        boxes: float32 [B, K, T, 4] xyxy, true; those of frame 0 are the queries.
        sigma: float32 [4].
    """
    targets = box_offsets(boxes[:, :, :1], boxes, sigma)
    x, y, w, h = F.smooth_l1_loss(offsets, targets, reduction="none").mean(dim=(0, 1, 2)).unbind()
    center, size = x + y, w + h
    return Loss(center + size, {"loss_center": center, "loss_size": size})
