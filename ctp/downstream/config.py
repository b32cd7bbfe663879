"""The complete config of a fine-tuning run for action recognition."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from ctp.config import Config
from ctp.data.catalog import Sources
from ctp.encoders.config import RANDOM, EncoderConfig
from ctp.training.config import OptimizerConfig, ReadingConfig, RunConfig
from ctp.training.run_folder import SCORES
from ctp.training.schedule import ScheduleConfig
from ctp.video.config import AugmentConfig, SamplingConfig, ViewsConfig


class LabeledDataConfig(ReadingConfig):
    """Where the labelled videos are, and what may be wrong with them."""

    uri: Sources = "corpus:240"
    """Videos to train on: a folder (local or s3://), a glob, shards, a .txt list, corpus:NUMBER, or
    several of them. Classes are their labels."""
    test_uri: Sources = ()
    """Videos to test on; none: those of `uri` that `test_list` names, or `test_share` of them."""
    train_list: str = ""
    """A text file that names videos of `uri` to train on, an id a line as in UCF-101's
    trainlist01.txt; none: all that are not tested on."""
    test_list: str = ""
    """A text file that names the videos to test on."""
    test_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each class's videos of `uri` to test on, where nothing else says which."""
    label_fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of each class's training videos whose labels are used, one at least (Fig. 4). Those of
    a smaller share are among those of a larger one."""


class Stride16Config(EncoderConfig):
    """An encoder of a total spatial stride of 16, as in all downstream tasks (supplement D)."""

    last_stage_spatial_stride: Annotated[int, Ge(1), Le(2)] = 2
    """2 makes the total spatial stride 16; 1 makes it 8, as in pretraining."""


class ClassifierHeadConfig(Config):
    """What makes classes of features (§4)."""

    dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Probability that a feature is left out in training."""
    frozen_encoder: bool = False
    """Whether the encoder stays as it is, its norms too, and the linear layer alone learns."""


class FinetuneConfig(RunConfig):
    """Action recognition. The defaults are the paper's for UCF-101 (supplement A), data aside."""

    RESULT: ClassVar[str] = SCORES
    LOCATIONS: ClassVar[tuple[str, ...]] = (
        "data.uri",
        "data.test_uri",
        "data.train_list",
        "data.test_list",
    )
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"test_every_epochs"}

    data: LabeledDataConfig = LabeledDataConfig()
    """Where the labelled videos are."""
    initial: str = RANDOM
    """Weights to start from: random, kinetics400, imagenet, or the path or URI of a run's folder,
    of an encoder.safetensors, or of a .pth of the authors' code."""
    encoder: Stride16Config | None = None
    """What is trained; none: what the file of `initial` holds, R3D-18 where it does not tell."""
    head: ClassifierHeadConfig = ClassifierHeadConfig()
    """What makes classes of its features."""
    sampling: SamplingConfig = SamplingConfig(min_interval_frames=2, max_interval_frames=2)
    """Which frames make a clip to train on."""
    augment: AugmentConfig = AugmentConfig(
        flip_prob=0.35,
        hue_saturation_prob=0.2,
        brightness_prob=0.2,
        max_brightness_shift=32,
        contrast_prob=0.2,
        max_log_contrast=0.2,
        colors_drift=False,
    )
    """How such a clip is varied."""
    views: ViewsConfig = ViewsConfig(placement="middles")
    """Which clips of a video are averaged when it is tested."""
    optimizer: OptimizerConfig = OptimizerConfig(weight_decay=5e-4)
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig(length=150, decay_at=(60, 120))
    """How long the run is and how its learning rate falls."""
    test_every_epochs: Annotated[int, Ge(1)] = 10
    """Epochs between two tests (Fig. 6); there is one at the end, too."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampling.num_frames != self.views.num_frames:
            raise ValueError(
                f"sampling.num_frames {self.sampling.num_frames} and views.num_frames "
                f"{self.views.num_frames} must be the same"
            )
        if self.data.test_list and self.data.test_uri:
            raise ValueError("data.test_uri and data.test_list both say what to test on: give one")
        return self
