"""The complete config of a pretraining run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from ctp.config import Config
from ctp.data.catalog import Sources
from ctp.encoders.config import EncoderConfig, HeadConfig
from ctp.pretext.ctp.config import GameConfig
from ctp.training.config import ReadingConfig, RunConfig
from ctp.training.run_folder import ENCODER
from ctp.video.config import AugmentConfig, SamplingConfig


class DataConfig(ReadingConfig):
    """Where the videos are, and what may be wrong with them."""

    uri: Sources = "corpus:240"
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    heldout_uri: Sources = ()
    """Other videos, for health, e.g. a test split; none: `heldout_share` of those to train on."""
    heldout_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the videos that training never sees, for health, where there is no `heldout_uri`."""


class CurriculumConfig(Config):
    """From patches of other clips, learnt in minutes, to the game's own `patch_source`.

    The share of clips with patches from another one is 1, then falls linearly to 0.
    """

    other_clip_until: Annotated[float, Ge(0), Le(1)] = 0.35
    """Share of the run after which it begins to fall."""
    own_source_from: Annotated[float, Ge(0), Le(1)] = 0.65
    """Share of the run after which it is 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.other_clip_until > self.own_source_from:
            raise ValueError("other_clip_until must not exceed own_source_from")
        return self

    def other_clip_share(self, progress: float) -> float:
        """The share at a `progress` in [0, 1] of the run."""
        if progress < self.other_clip_until:
            return 1.0
        if progress >= self.own_source_from:
            return 0.0
        fall = self.own_source_from - self.other_clip_until
        return (self.own_source_from - progress) / fall


class HealthConfig(Config):
    """Tracking held-out clips during the run: a measure that needs no labels (§4)."""

    num_clips: Annotated[int, Ge(0)] = 256
    """Held-out clips to track; 0 for none."""
    every_steps: Annotated[int, Ge(1)] = 1000
    """Steps between two looks; there is one at the end, too."""


class KnnConfig(Config):
    """How well videos are told apart by their nearest neighbours, during the run and beside it."""

    uri: Sources = ()
    """Labelled videos, the gallery; none: no such score."""
    test_uri: Sources = ()
    """Labelled videos that are looked up in it; none: `test_share` of `uri`."""
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.25
    """Share of each class's videos of `uri` to look up, where there is no `test_uri`."""
    every_epochs: Annotated[int, Ge(1)] = 10
    """Epochs between two scores; there is one at the end, too."""
    k: Annotated[int, Ge(1)] = 5
    """Neighbours that vote for a video's class."""
    num_clips: Annotated[int, Ge(1)] = 1
    """Clips of each video whose features are averaged."""
    cpus: Annotated[float, Ge(0)] = 1.0
    """CPU cores for it, besides those of workers and actors."""
    gpus: Annotated[float, Ge(0), Le(1)] = 0.0
    """GPU for it, besides those of the workers; 0: on the CPU."""


class PretrainConfig(RunConfig):
    """A pretraining run. The defaults are the paper's R3D-18 on UCF-101 (§5.1), data aside."""

    RESULT: ClassVar[str] = ENCODER
    LOCATIONS: ClassVar[tuple[str, ...]] = (
        "data.uri",
        "data.heldout_uri",
        "knn.uri",
        "knn.test_uri",
        "initial_encoder",
    )
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"health", "knn"}

    data: DataConfig = DataConfig()
    """Where the videos are, and what may be wrong with them."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames make a clip."""
    augment: AugmentConfig = AugmentConfig()
    """How a clip is varied before and after the paste."""
    game: GameConfig = GameConfig()
    """The rules of Catch-the-Patch."""
    curriculum: CurriculumConfig | None = None
    """Easier patches at first; none: the game's own source all along, as in the paper."""
    encoder: EncoderConfig = EncoderConfig()
    """What is pretrained."""
    initial_encoder: str = ""
    """An encoder.safetensors to start from, local or s3://; none: fresh weights."""
    head: HeadConfig = HeadConfig()
    """What predicts the boxes, and is thrown away."""
    sigma: tuple[float, float, float, float] = (0.8, 0.8, 0.04, 0.04)
    """Scales of the targets x, y, w, h (§3.2, Table 9)."""
    health: HealthConfig = HealthConfig()
    """Tracking of held-out clips."""
    knn: KnnConfig = KnnConfig()
    """Nearest neighbours of labelled videos."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.game.max_box_size_px > self.augment.frame_size_px:
            raise ValueError(
                f"game.max_box_size_px {self.game.max_box_size_px:g} exceeds "
                f"augment.frame_size_px {self.augment.frame_size_px}"
            )
        if any(scale <= 0 for scale in self.sigma):
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        return self
