"""The complete config of a build of shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ctp.build.layouts import LAYOUTS
from ctp.config import Config
from ctp.text import near_miss


class TranscodeConfig(Config):
    """How videos are coded anew."""

    short_side_px: int = Field(default=144, ge=16, multiple_of=2)
    """Length of the picture's shorter side; smaller videos keep theirs."""
    gop_frames: int = Field(default=8, ge=1)
    """Every so many frames is a key frame: fewer are decoded for a clip, more bytes are read."""
    crf: int = Field(default=22, ge=0, le=51)
    """x264's constant quality; lower is better and larger."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = (
        "veryfast"
    )
    """x264's trade of time for size."""


class BuildConfig(Config):
    """A build of shards."""

    source: str = ""
    """Where the videos are: a folder or URI, laid out as `layout` says."""
    layout: str = "folder"
    """How they lie there: folder, ucf101, hmdb51, kinetics400, ssv1, got10k or frames-zip."""
    split_number: int = Field(default=1, ge=1, le=3)
    """Which of the official splits of UCF-101 or HMDB-51."""
    out: str = ""
    """Folder or URI for the shards."""
    videos_per_shard: int = Field(default=128, ge=1)
    """Videos in a shard, about."""
    num_shards: int | None = Field(default=None, ge=1)
    """Shards of each split; none is what `videos_per_shard` comes to."""
    seed: int = 0
    """Deals the videos out to the shards."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many videos of each split, for a try."""
    transcode: TranscodeConfig | None
    """How videos are coded anew; none keeps their bytes."""
    allow_missing: bool = False
    """Go on when videos are missing that the splits name; they are listed in the manifest."""
    num_tasks: int | None = Field(default=None, ge=1)
    """Shards that are built at a time; none is as many as there are CPUs."""
    video_seconds: float = Field(default=300, gt=0)
    """A video that takes longer is given up."""

    @field_validator("layout")
    @classmethod
    def _exists(cls, name: str) -> str:
        if name not in LAYOUTS:
            hint = near_miss(name, LAYOUTS)
            raise ValueError(f"there is no such layout{hint}; there are {', '.join(LAYOUTS)}")
        return name
