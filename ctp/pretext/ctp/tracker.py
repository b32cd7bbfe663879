"""The model that tracks: an encoder, and a head that turns its features into boxes (§3.1, §3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ctp.encoders.config import STAGES, EncoderConfig, HeadConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.geometry import apply_offsets
from ctp.pretext.ctp.head import TrackHead


class Tracker(nn.Module):
    """Encoder and head.

    Attributes:
        encoder: what makes the features.
        head: what turns them into offsets.
        sigma: float32 [4], scales of the offsets.
        frozen: the encoder's stages that stay as they are, their norms too.
    """

    sigma: Tensor

    def __init__(
        self,
        encoder: EncoderConfig,
        head: HeadConfig,
        num_frames: int,
        sigma: Sequence[float],
        *,
        frozen_stages: int = 0,
    ):
        """Build it with fresh weights.

        Args:
            encoder, head: sizes.
            num_frames: T of the clips.
            sigma: scales of the offsets x, y, w, h.
            frozen_stages: how many of `STAGES` are frozen, from the first on.
        """
        super().__init__()
        self.encoder = ResNet3d(encoder)
        self.head = TrackHead(head, self.encoder, num_frames)
        self.register_buffer("sigma", torch.tensor(sigma), persistent=False)
        self.frozen = STAGES[:frozen_stages]
        for name in self.frozen:
            self.encoder.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """The norms of frozen stages go on as they were, too."""
        super().train(mode)
        for name in self.frozen:
            self.encoder.get_submodule(name).eval()
        return self

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
