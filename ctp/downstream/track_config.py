"""The complete config of a run that fine-tunes tracking on annotated videos."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Le
from pydantic import model_validator

from ctp.config import Config
from ctp.data.catalog import Sources
from ctp.encoders.config import RANDOM, STAGES, EncoderConfig, HeadConfig
from ctp.training.config import ReadingConfig, RunConfig
from ctp.training.run_folder import SCORES
from ctp.training.schedule import ScheduleConfig
from ctp.video.config import AugmentConfig, SamplingConfig


class AnnotatedDataConfig(ReadingConfig):
    """Where the annotated videos are, and what may be wrong with them."""

    uri: Sources = "data/got10k/train"
    """Videos to train on: shards with boxes, as jobs/build_shards.py --layout got10k makes them; a
    folder (local or s3://), a glob, or several of them."""
    test_uri: Sources = "data/got10k/val"
    """Videos to test on, likewise."""


class VideoClipsConfig(Config):
    """How a video is cut into the clips that it is tested on."""

    interval_frames: Annotated[int, Ge(1)] = 1
    """Distance between frames of a clip, in frames of the video: "16 sequential frames" (§4)."""
    short_side_px: Annotated[int, Ge(8)] = 112
    """Length to scale a video's shorter side to, before a square around the first box is cut
    out. The frame's own size shows as much of the picture as may be."""


class TrackConfig(RunConfig):
    """Tracking of annotated objects (§4, Fig. 3). The paper tells the data, the 16 frames and the
    stages that are frozen; the rest is as in pretraining."""

    RESULT: ClassVar[str] = SCORES
    LOCATIONS: ClassVar[tuple[str, ...]] = ("data.uri", "data.test_uri")
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"test_every_steps"}

    data: AnnotatedDataConfig = AnnotatedDataConfig()
    """Where the annotated videos are."""
    initial: str = RANDOM
    """Weights to start from: random, kinetics400, imagenet, or the path or URI of a run's folder,
    of an encoder.safetensors, or of a .pth of the authors' code."""
    with_head: bool = False
    """Whether the head, too, starts from the run that `initial` names, from its last checkpoint."""
    encoder: EncoderConfig | None = None
    """What is trained; none: what the file of `initial` holds, R3D-18 where it does not tell."""
    frozen_stages: Annotated[int, Ge(0), Le(len(STAGES))] = 0
    """How much of the encoder stays as it is, its norms too: 0 nothing, 1 the stem, 2 the first
    stage too, …, 5 all of it (Fig. 3)."""
    head: HeadConfig = HeadConfig()
    """What predicts the boxes."""
    sigma: tuple[float, float, float, float] = (0.8, 0.8, 0.04, 0.04)
    """Scales of the targets x, y, w, h (§3.2, Table 9)."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames make a clip to train on."""
    augment: AugmentConfig = AugmentConfig()
    """How such a clip is varied; its square always holds the first box, if that fits."""
    test: VideoClipsConfig = VideoClipsConfig()
    """Which clips are tested on."""
    schedule: ScheduleConfig = ScheduleConfig(length=100, decay_at=(40, 80))
    """How long the run is and how its learning rate falls."""
    test_every_steps: Annotated[int, Ge(1)] = 3000
    """Steps between two tests; there is one at the end, too."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.test.short_side_px < self.augment.frame_size_px:
            raise ValueError(
                f"test.short_side_px {self.test.short_side_px} is less than "
                f"augment.frame_size_px {self.augment.frame_size_px}"
            )
        if any(scale <= 0 for scale in self.sigma):
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        return self
