"""The tracking model: an encoder, and a head that turns its features into boxes (§3.1, §3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctp.encoders.encoder import Encoder
from ctp.geometry import apply_offsets
from ctp.pretext.ctp.config import HeadConfig
from ctp.pretext.ctp.head import TrackHead


class Tracker(nn.Module):
    """Encoder and prediction head.

    Attributes:
        encoder: makes the features.
        head: turns them into offsets.
        sigma: float32 [4], scales of the offsets.
    """

    sigma: Tensor

    def __init__(self, encoder: Encoder, head: HeadConfig, num_frames: int, sigma: Sequence[float]):
        """Build the head for an encoder.

        Args:
            encoder: makes the features.
            head: sizes of the head.
            num_frames: T of the clips.
            sigma: scales of the offsets x, y, w, h.
        """
        super().__init__()
        self.encoder = encoder
        self.head = TrackHead(head, encoder, num_frames)
        # a buffer, to move to the device with the model; it is not saved with the weights
        self.register_buffer("sigma", torch.tensor(sigma), persistent=False)

    def forward(self, clips: Tensor, queries: Tensor) -> Tensor:
        """Predict offsets.

        Args:
            clips: float [B, 3, T, H, W], normalised.
            queries: float32 [B, K, 4], the boxes in the first frame.

        Returns:
            float32 [B, K, T, 4].
        """
        offsets: Tensor = self.head(self.encoder(clips), queries)
        # the loss and the boxes need more digits than bfloat16 has
        return offsets.float()

    def track(self, clips: Tensor, queries: Tensor) -> Tensor:
        """Predict boxes, float32 [B, K, T, 4] xyxy pixels; see `forward` for the arguments."""
        return apply_offsets(queries[:, :, None], self(clips, queries), self.sigma)
