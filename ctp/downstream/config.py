"""The complete config of a fine-tuning run for action recognition."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from ctp.config import NotAnOption
from ctp.data.sources import Sources
from ctp.encoders.config import RANDOM, AnyEncoderConfig
from ctp.score import Score
from ctp.training.config import OptimizerConfig, RunConfig, VideosConfig
from ctp.training.run_folder import SCORES
from ctp.training.schedule import ScheduleConfig
from ctp.video.config import AugmentConfig, ClipFormat, SamplingConfig, ViewsConfig

ACCURACY = Score("top1", "top-1", "chance1", "chance", is_percent=True)
TOP5 = Score("top5", "top-5", "chance5", "chance", is_percent=True)
TRAINED = {"finetune": "all", "linear": "the linear layer", "attentive": "the attentive probe"}
"""Protocol of a fine-tuning run -> what it trains."""


class LabeledVideosConfig(VideosConfig):
    """The labelled videos to train and to test on."""

    uri: Sources = "corpus:240"
    """Videos to train on: a folder (local or s3://), a glob, shards, a .txt list, corpus:NUMBER, or
    several of them. Classes are their labels."""
    test_uri: Sources = ()
    """Videos to test on; none: `test_share` of those of `uri`."""
    test_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each class's videos of `uri` to test on, without `test_uri`."""
    label_fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of each class's training videos whose labels are used, at least one (Fig. 4). A larger
    share contains the videos of a smaller one."""


class DownstreamConfig(RunConfig):
    """A run that trains on top of an encoder, and tests the result on other videos."""

    RESULT: ClassVar[str] = SCORES
    LOCATIONS: ClassVar[tuple[str, ...]] = ("data.uri", "data.test_uri")
    WEIGHTS: ClassVar[str] = "initial"

    initial: str = RANDOM
    """Weights to start from: random, kinetics400, imagenet, ctp-small (a small encoder that is part
    of ctp), a run (its name or folder), an encoder.safetensors, or a .pth of the authors' code."""
    encoder: AnyEncoderConfig | None = None
    """The encoder; none: that of the file of `initial`, r3d if the file does not say."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames of a video make a clip to train on."""
    augment: AugmentConfig = AugmentConfig()
    """How a clip to train on is cropped and varied."""

    def describe(self) -> dict[str, str]:
        """Return the facts of the run that a report shows."""
        size = self.augment.frame_size_px
        return {
            **super().describe(),
            "initial weights": self.initial,
            "encoder": self.encoder.describe() if self.encoder else "of the initial weights",
            "clip": f"{self.sampling.num_frames} frames of {size}×{size}",
        }

    @property
    def clip_format(self) -> ClipFormat:
        """Return the format of the clips that it trains on."""
        return ClipFormat.from_training(self.sampling, self.augment)


class FinetuneConfig(DownstreamConfig):
    """Action recognition. The defaults are the paper's for UCF-101 (supplement A), data aside."""

    KIND: ClassVar[str] = "finetune"
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"test_every_epochs"}

    data: LabeledVideosConfig = LabeledVideosConfig()
    """The labelled videos to train and to test on."""
    protocol: Literal["finetune", "linear", "attentive"] = "finetune"
    """What is trained: all, with a linear layer (finetune); or, on a frozen encoder, a linear layer
    (linear) or an attentive probe as V-JEPA's (attentive)."""
    sampling: SamplingConfig = SamplingConfig(interval_frames=(2, 2))
    """Which frames of a video make a clip to train on."""
    augment: AugmentConfig = AugmentConfig(flip_prob=0.35, keeps_aspect_ratio=False)
    """How a clip to train on is cropped; a test takes the middle of the middle size."""
    clips_per_test_video: Annotated[int, Ge(1)] = 10
    """Clips of a video, equally spaced, whose scores are averaged when it is tested."""
    optimizer: OptimizerConfig = OptimizerConfig(weight_decay=5e-4)
    """The optimiser."""
    schedule: ScheduleConfig = ScheduleConfig(length=150, decay_at=(60, 120))
    """Length of the run and decay of its learning rate."""
    test_every_epochs: Annotated[int, Ge(1), NotAnOption()] = 10
    """Epochs between two tests (Fig. 6); there is also one at the end."""

    def describe(self) -> dict[str, str]:
        """Return the facts of the run that a report shows."""
        return {
            **super().describe(),
            "trained": TRAINED[self.protocol],
            "labels used": f"{100 * self.data.label_fraction:g} %",
        }

    @property
    def score(self) -> Score:
        """Return the accuracy."""
        return ACCURACY

    @property
    def further_scores(self) -> tuple[Score, ...]:
        """Return the other scores of its test."""
        return (TOP5,)

    @property
    def views(self) -> ViewsConfig:
        """Return the clips of a video that is tested."""
        return ViewsConfig(
            num_clips=self.clips_per_test_video,
            num_frames=self.sampling.num_frames,
            interval_frames=self.sampling.middle_interval_frames,
            placement="middles",
            frame_size_px=self.augment.frame_size_px,
            short_side_px=self.augment.middle_short_side_px,
            keeps_aspect_ratio=self.augment.keeps_aspect_ratio,
        )
