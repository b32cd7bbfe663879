"""3DRotNet: predict by how many quarter turns a clip is rotated (Jing et al., arXiv 1811.11387).

As re-implemented for Table 4 of Catch-the-Patch, except that rotations are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ctp.data.stream import VideoSource
from ctp.pretext.classify import ClassificationTask, ClassifiedSample
from ctp.pretext.dropout import draw_dropout_seed
from ctp.pretext.rotation.config import RotationConfig
from ctp.video.augment import RECOGNITION_COLORS, sample_color, sample_crop
from ctp.video.sampling import MIN_VIDEO_FRAMES, sample_frames

NUM_TURNS = 4


class RotationTask(ClassificationTask[RotationConfig]):
    """Predict by how many quarter turns a clip is rotated counter-clockwise."""

    Config = RotationConfig
    question = "turned"

    @property
    def class_names(self) -> Sequence[str]:
        """Return the angles."""
        return [f"{90 * turns}°" for turns in range(NUM_TURNS)]

    def fields(self) -> ClassifiedSample:
        """Return the dtypes and shapes of a sample."""
        return self._fields()

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> ClassifiedSample:
        """Decode a clip and draw its rotation, which is applied on the device."""
        config, size = self.config, self.config.augment.frame_size_px
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            frames = sample_frames(config.sampling, reader.num_frames, rng, temporal_jitter=True)
            planes = reader.read_square(frames.tolist(), sample_crop(config.augment, rng), size)
        turns = np.asarray(rng.integers(NUM_TURNS))
        color = sample_color(RECOGNITION_COLORS, config.sampling.num_frames, rng)
        return ClassifiedSample(planes, color, turns, draw_dropout_seed(rng))

    def frames(self, samples: ClassifiedSample) -> Tensor:
        """Return the rotated frames, uint8 [B, T, S, S, 3]."""
        upright = super().frames(samples)
        # exact: a warp would repeat rows or columns at the edges, which show the class
        turned = torch.stack([torch.rot90(upright, turns, (2, 3)) for turns in range(NUM_TURNS)])
        # all four: to find out which are needed, the host would have to wait for the device
        return turned[samples.label, torch.arange(len(upright), device=upright.device)]
