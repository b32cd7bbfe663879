"""The complete config of a pretraining run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from ctp.config import Config
from ctp.models.resnet3d import EncoderConfig
from ctp.models.track_head import HeadConfig
from ctp.synthesis.config import GameConfig
from ctp.training.checkpoint import CheckpointConfig
from ctp.training.schedule import ScheduleConfig
from ctp.training.step import ComputeConfig, OptimizerConfig
from ctp.video.augment import AugmentConfig
from ctp.video.catalog import Sources
from ctp.video.sampling import SamplingConfig


class DataConfig(Config):
    """Where the videos are, and what may be wrong with them."""

    uri: Sources = "corpus:240"
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    heldout_uri: Sources = ()
    """Other videos, for health, e.g. a test split; none: `heldout_share` of those to train on."""
    heldout_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the videos that training never sees, for health, where there is no `heldout_uri`."""
    max_quarantined_share: Annotated[float, Ge(0), Le(1)] = 0.2
    """The run stops when more than this share of its videos cannot be used."""
    max_seconds_per_video: Annotated[float, Gt(0)] = 60.0
    """A video that the decoder works on for longer is quarantined: it hangs."""
    clips_per_visit: Annotated[int, Ge(1)] = 1
    """Clips of a video in a row, two steps apart, before the next pass over the videos: one read
    serves them all. The length of an epoch stays."""
    read_ahead: Annotated[int, Ge(0)] = 8
    """Videos that each actor reads ahead of the one it decodes."""


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


class ScalingConfig(Config):
    """What the run computes on. It may change when a run is continued."""

    num_workers: Annotated[int, Ge(1)] = 1
    """Training workers; their number must divide `compute.total_batch`."""
    use_gpu: bool = False
    """Whether each worker has a GPU."""
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each worker."""
    num_actors: Annotated[int, Ge(1)] = 1
    """Actors that decode videos and play the game."""
    cpus_per_actor: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each actor."""
    play_on: Literal["cpu", "device"] = "cpu"
    """Where pixels become RGB and patches are pasted: by the actors, or by the training workers on
    their device, which takes two fifths of the work from the actors. The same to 1/255."""
    max_failures: Annotated[int, Ge(-1)] = 3
    """How often lost workers are started again from the last checkpoint; -1: without end."""


class PretrainConfig(Config):
    """A pretraining run. The defaults are the paper's R3D-18 on UCF-101 (§5.1), data aside."""

    name: str = ""
    """Name of the run, and of its folder below `storage`. The same name continues a run."""
    storage: str = "runs"
    """Where run folders lie: a local folder or s3://bucket/prefix."""
    seed: Annotated[int, Ge(0)] = 0
    """Every random choice of the run follows from it."""
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
    optimizer: OptimizerConfig = OptimizerConfig()
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How long the run is and how its learning rate falls."""
    compute: ComputeConfig = ComputeConfig()
    """How a step computes."""
    health: HealthConfig = HealthConfig()
    """Tracking of held-out clips."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """How often the run saves."""
    log_every_steps: Annotated[int, Ge(1)] = 10
    """Steps between two log lines."""
    scaling: ScalingConfig = ScalingConfig()
    """What the run computes on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compute.total_batch % self.scaling.num_workers:
            raise ValueError(
                f"compute.total_batch {self.compute.total_batch} cannot be shared equally by "
                f"scaling.num_workers {self.scaling.num_workers}"
            )
        if self.game.max_box_size_px > self.augment.frame_size_px:
            raise ValueError(
                f"game.max_box_size_px {self.game.max_box_size_px:g} exceeds "
                f"augment.frame_size_px {self.augment.frame_size_px}"
            )
        if any(scale <= 0 for scale in self.sigma):
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"name {self.name!r} must be a folder name, without '/'")
        return self

    def mismatch(self, other: PretrainConfig) -> list[str]:
        """What keeps a run of config `other` from being continued with this one.

        Returns:
            A line for each field that differs and shapes the result; what may change freely
            (`MAY_CHANGE`) is passed over.
        """
        return _differences("", self.model_dump(), other.model_dump())


MAY_CHANGE = frozenset(
    {
        "storage",
        "data.max_quarantined_share",
        "data.max_seconds_per_video",
        "data.read_ahead",
        "health",
        "checkpoint",
        "log_every_steps",
        "scaling",
    }
)


def _differences(prefix: str, here: object, there: object) -> list[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        return [
            line
            for key in here
            if (name := f"{prefix}.{key}" if prefix else key) not in MAY_CHANGE
            for line in _differences(name, here[key], there[key])
        ]
    return [] if here == there else [f"{prefix} was {there!r}, is {here!r}"]
