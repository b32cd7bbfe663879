"""SpeedNet: predict how fast a clip is played (Benaim et al., CVPR 2020, arXiv 2004.06130).

As re-implemented for Table 4 of Catch-the-Patch, or with the two classes of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctp.data.stream import VideoSource
from ctp.pretext.classify import ClassificationTask, ClassifiedSample
from ctp.pretext.dropout import draw_dropout_seed
from ctp.pretext.speed.config import SpeedConfig
from ctp.video.augment import RECOGNITION_COLORS, sample_color, sample_crop
from ctp.video.planes import Crop, resize_square
from ctp.video.sampling import MIN_VIDEO_FRAMES

if TYPE_CHECKING:
    from ctp.video.decode import VideoReader

Speeds = tuple[float, float]
"""Lowest and highest speed of a class; below 0 for clips that are played backwards."""

SEVEN: dict[str, Speeds] = {f"{speed}×": (speed, speed) for speed in (-4, -2, -1, 0, 1, 2, 4)}
ORIGINAL: dict[str, Speeds] = {"normal": (1.0, 1.2), "sped up": (1.7, 2.2)}
RESIZED_SHARE = 64 / 224, 336 / 224
"""Shortest and longest side that the original resizes frames to, over the side of a clip."""


class SpeedTask(ClassificationTask[SpeedConfig]):
    """Predict the speed at which a clip is played."""

    Config = SpeedConfig
    question = "speed"

    @property
    def speeds(self) -> dict[str, Speeds]:
        """Return the classes."""
        return SEVEN if self.config.classes == "seven" else ORIGINAL

    @property
    def class_names(self) -> Sequence[str]:
        """Return the speeds."""
        return list(self.speeds)

    def fields(self) -> ClassifiedSample:
        """Return the dtypes and shapes of a sample."""
        return self._fields() if self.config.classes == "seven" else self._fields(2, labels=(2,))

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> ClassifiedSample:
        """Decode a clip at a random speed or, with the original's classes, one at each speed.

        Videos that are too short for the highest speed are quarantined: repeats of the last frame
        would show the class.
        """
        config = self.config
        low, high = config.sampling.interval_frames
        fastest = high * max(speed for _, speed in self.speeds.values())
        span = int(fastest * (config.sampling.num_frames - 1)) + 1
        remedy = "fewer with a smaller task.sampling.num_frames or task.sampling.interval_frames"
        with videos.open(max(span, MIN_VIDEO_FRAMES), remedy) as reader:
            interval = int(rng.integers(low, high + 1))
            crop = sample_crop(config.augment, rng)
            if config.classes == "seven":
                label = np.asarray(rng.integers(len(SEVEN)))
                planes = self._read(reader, interval, list(SEVEN.values())[label], crop, rng)
                color = self._draw_color(rng)
            else:
                # both versions of a video in one sample, so that only the speed differs
                label = np.arange(len(ORIGINAL))
                speeds = ORIGINAL.values()
                planes = np.stack([self._read(reader, interval, s, crop, rng) for s in speeds])
                color = np.stack([self._draw_color(rng) for _ in speeds])
        return ClassifiedSample(planes, color, label, draw_dropout_seed(rng))

    def _read(
        self,
        reader: VideoReader,
        interval: int,
        speeds: Speeds,
        crop: Crop,
        rng: np.random.Generator,
    ) -> NDArray[np.uint8]:
        """Read a clip of one class, uint8 [T, 3/2 · S²]."""
        speed, size = rng.uniform(*speeds), self.config.augment.frame_size_px
        offsets = abs(speed) * interval * np.arange(self.config.sampling.num_frames)
        steps = offsets.astype(np.int64)
        frames = rng.integers(reader.num_frames - steps[-1]) + steps
        side = size
        if self.config.classes == "original":
            # random sizes hide traces of the codec, which show the distance between frames
            shortest, longest = (int(size * share) // 2 for share in RESIZED_SHARE)
            side = 2 * int(rng.integers(shortest, longest + 1))
        planes = resize_square(reader.read_square(frames.tolist(), crop, side), side, size)
        return planes[::-1] if speed < 0 else planes

    def _draw_color(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return sample_color(RECOGNITION_COLORS, self.config.sampling.num_frames, rng)
