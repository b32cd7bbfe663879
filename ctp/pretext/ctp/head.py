"""The prediction head, from features and a query box to the whole trajectory (§3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from ctp.encoders.encoder import Encoder
from ctp.pretext.ctp.config import HeadConfig

ROI_SIZE = 5
"""Height and width of RoIAlign's output for every query box (§3.2)."""


class TrackHead(nn.Module):
    """Predicts, for each query box in the first frame, its offsets in all T frames.

    Attributes:
        num_frames: T.
        learning_rate_share: see `ctp.training.step.build_optimizer`.
    """

    def __init__(self, config: HeadConfig, encoder: Encoder, num_frames: int):
        """Build the head for an encoder, whose channels and strides it reads.

        Args:
            config: sizes.
            encoder: computes the features; its strides in height and width are equal.
            num_frames: T of the clips.
        """
        super().__init__()
        self.num_frames = num_frames
        self.learning_rate_share = config.learning_rate_share
        # from pixels of the clip to cells of the features
        self.spatial_scale = 1 / encoder.stride[1]
        hidden, depth = config.hidden_channels, math.ceil(num_frames / encoder.stride[0])
        self.squeeze: nn.Module
        if config.squeeze:
            self.squeeze = nn.Sequential(
                nn.Conv3d(encoder.out_channels, hidden, (depth, 1, 1)),
                nn.ReLU(inplace=True),
                nn.Flatten(1, 2),
            )
            roi_channels = hidden
        else:  # without the squeeze, every moment of the features has its own channels
            self.squeeze = nn.Flatten(1, 2)
            roi_channels = encoder.out_channels * depth
        first = nn.Linear(roi_channels * ROI_SIZE**2, hidden)
        self.mlp = nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(hidden, num_frames * 4))
        _initialise(self)
        if config.init == "torch":
            first.reset_parameters()
            nn.init.zeros_(first.bias)

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        """Predict offsets.

        Args:
            features: float [B, C, T', H', W'], from the encoder.
            queries: float32 [B, K, 4], xyxy pixels of the clip: the boxes in the first frame.

        Returns:
            float [B, K, T, 4], offsets, see `geometry.box_offsets`.
        """
        batch, num_queries, _ = queries.shape
        clip = torch.arange(batch, device=queries.device, dtype=queries.dtype)
        rois = torch.cat(
            [clip.repeat_interleave(num_queries)[:, None], queries.reshape(-1, 4)], dim=1
        )
        # aligned, or boxes would be shifted by half a cell
        regions = roi_align(
            # without an axis of time, which roi_align does not know
            self.squeeze(features).contiguous(),
            rois,
            output_size=ROI_SIZE,
            spatial_scale=self.spatial_scale,
            sampling_ratio=2,
            aligned=True,
        )
        # in float32 under autocast, too: it is less than 1% of the work, and bfloat16 has steps of
        # .25 at offsets of 53 (§3.2 divides them by σ)
        with torch.autocast("cuda" if regions.is_cuda else "cpu", enabled=False):
            offsets: Tensor = self.mlp(regions.float().flatten(1))
        return offsets.view(batch, num_queries, self.num_frames, 4)


def _initialise(head: TrackHead) -> None:
    """Initialise as the authors do: Kaiming fan-out for the convolution, N(0, .001) for the two
    linear layers, biases 0. All boxes are predicted to stay still at first."""
    for part in head.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.001)
        if isinstance(part, nn.Conv3d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
