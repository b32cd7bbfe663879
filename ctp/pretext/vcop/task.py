"""VCOP: predict the order of shuffled clips (Xu et al., CVPR 2019).

As re-implemented for Table 4 of Catch-the-Patch, except that each clip has its own crop, as in the
original: in a shared crop, the drift of the picture from clip to clip shows the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.data.stream import VideoSource, array_field
from ctp.pretext.classify import (
    DROPOUT,
    ClassificationTask,
    ClassifiedSample,
    last_layer,
)
from ctp.pretext.dropout import draw_dropout_seed, seeded_dropout
from ctp.pretext.vcop.config import VcopConfig
from ctp.video.augment import sample_crop

if TYPE_CHECKING:  # actors draw samples without torchvision's models, which take 0.2 GB
    from ctp.encoders.encoder import Encoder


class VcopTask(ClassificationTask[VcopConfig]):
    """Predict the order in which the clips of a video are shown."""

    Config = VcopConfig
    question = "order"

    @property
    def orders(self) -> Sequence[tuple[int, ...]]:
        """Return for each class the clips, counted in time, in the order that they are shown in."""
        return list(permutations(range(self.config.num_clips)))

    @property
    def class_names(self) -> Sequence[str]:
        """Return the orders; clip 1 is the first in time."""
        return [" ".join(str(clip + 1) for clip in order) for order in self.orders]

    def fields(self) -> ClassifiedSample:
        """Return the dtypes and shapes of a sample."""
        no_color = array_field(np.float32, 0)
        return self._fields(self.config.num_clips)._replace(color=no_color)

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> ClassifiedSample:
        """Decode consecutive clips and shuffle them.

        Videos that are too short for clips without overlap are quarantined: their clips would have
        no clear order.
        """
        config, (low, high) = self.config, self.config.sampling.interval_frames
        remedy = "fewer with a smaller task.gap_frames, task.num_clips or task.sampling.num_frames"
        with videos.open(self._span(high), remedy) as reader:
            interval = int(rng.integers(low, high + 1))
            start = int(rng.integers(reader.num_frames - self._span(interval) + 1))
            crops = [sample_crop(config.augment, rng) for _ in range(config.num_clips)]
            if config.crop_per == "sample":
                crops = [crops[0]] * config.num_clips
            clips = []
            for crop in crops:
                frames = start + interval * np.arange(config.sampling.num_frames)
                alike = replace(crop, flip=crops[0].flip)
                size = config.augment.frame_size_px
                clips.append(reader.read_square(frames.tolist(), alike, size))
                start = int(frames[-1]) + 1 + config.gap_frames
        label = int(rng.integers(len(self.orders)))
        shown = np.stack([clips[clip] for clip in self.orders[label]])
        no_color = np.zeros(0, np.float32)
        return ClassifiedSample(shown, no_color, np.asarray(label), draw_dropout_seed(rng))

    def build(self, encoder: Encoder) -> nn.Module:
        """Return encoder and order classifier."""
        return OrderClassifier(encoder, self.config.num_clips, len(self.orders))

    def _span(self, interval: int) -> int:
        """Return the frames from the first of all clips to the last."""
        config = self.config
        clip = interval * (config.sampling.num_frames - 1) + 1
        return config.num_clips * clip + (config.num_clips - 1) * config.gap_frames


class OrderClassifier(nn.Module):
    """Encoder, average over time and space, a layer on each pair of clips, and one on all pairs.

    Attributes:
        encoder: makes the features.
        pair: maps the 2 · C features of two clips to C; shared by all pairs.
        fc: maps the features of all pairs to the logits of the orders.
    """

    def __init__(self, encoder: Encoder, num_clips: int, num_orders: int):
        super().__init__()
        self.encoder, self.num_clips, channels = encoder, num_clips, encoder.out_channels
        self.pairs = list(combinations(range(num_clips), 2))
        self.pair = nn.Linear(2 * channels, channels)
        nn.init.kaiming_normal_(self.pair.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.pair.bias)
        self.fc = last_layer(len(self.pairs) * channels, num_orders)

    def forward(self, clips: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        """Classify the order of clips.

        Args:
            clips: float [B · num_clips, 3, T, H, W], normalised; those of a sample in a row.
            dropout_seeds: int64 [B], of the samples; None: no dropout.

        Returns:
            float32 [B, orders], logits.
        """
        features = self.encoder(clips).mean(dim=(2, 3, 4)).unflatten(0, (-1, self.num_clips))
        of_clips = features.unbind(1)
        # without an array of indices, for which the host would wait for the GPU
        pairs = torch.stack([torch.cat([of_clips[a], of_clips[b]], 1) for a, b in self.pairs], 1)
        joined = F.relu(self.pair(pairs)).flatten(1)
        if dropout_seeds is not None:
            joined = seeded_dropout(joined, dropout_seeds, DROPOUT)
        logits: Tensor = self.fc(joined)
        return logits.float()
