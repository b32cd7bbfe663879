"""The complete config of a build of shards."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ctp.build.layouts import LAYOUTS
from ctp.config import Config, NotAnOption
from ctp.text import near_miss
from ctp.video.config import MaxMegapixels
from ctp.video.limits import DEFAULT_MAX_MEGAPIXELS

OTHER_OPTIONS = {"mpeg4": ("gop_frames", "crf", "preset"), "h264": ("quantizer",)}
"""Codec -> options of the other one."""


class TranscodeConfig(Config):
    """How videos are transcoded."""

    codec: Literal["mpeg4", "h264"] = "mpeg4"
    """mpeg4 (MPEG-4 part 2, every frame a key frame) loads fastest, h264 needs fewest bytes."""
    short_side_px: int = Field(default=144, ge=16, multiple_of=2)
    """Length of the shorter side; smaller videos keep their size."""
    quantizer: int = Field(default=6, ge=2, le=31)
    """Of mpeg4: step of its coefficients; lower values give better and larger videos."""
    gop_frames: int = Field(default=8, ge=1)
    """Of h264: distance between key frames; smaller values decode faster and need more bytes."""
    crf: int = Field(default=22, ge=0, le=51)
    """Of h264: x264's constant rate factor; lower values give better and larger videos."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = (
        "veryfast"
    )
    """Of h264: x264's preset; slower ones give smaller videos."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        fields = type(self).model_fields
        for name in OTHER_OPTIONS[self.codec]:
            value = getattr(self, name)
            if value != fields[name].default:
                raise ValueError(
                    f"{name}: got {value}, but codec {self.codec} has no such option. Choose the "
                    "other codec, or leave it out"
                )
        return self


class BuildConfig(Config):
    """A build of shards."""

    recipe: Annotated[str, NotAnOption()] = ""
    """Recipe that the options started from."""
    source: str = ""
    """Folder or URI of the videos, in the given layout."""
    layout: str = "folder"
    """Layout of the source: folder, ucf101, hmdb51, kinetics400, ssv1, got10k or frames-zip."""
    split_number: int = Field(default=1, ge=1, le=3)
    """Number of the official split of UCF-101 or HMDB-51."""
    out: str = ""
    """Folder or URI for the shards."""
    videos_per_shard: int = Field(default=128, ge=1)
    """Approximate number of videos in a shard."""
    num_shards: int | None = Field(default=None, ge=1)
    """Number of shards of each split; by default it follows from `videos_per_shard`."""
    seed: int = 0
    """Seed for the order of the videos."""
    limit: int | None = Field(default=None, ge=1)
    """Greatest number of videos of each split, for a test."""
    transcode: TranscodeConfig | None
    """How videos are transcoded; null keeps their bytes."""
    teacher: Literal["kcf"] | None = None
    """Tracker that labels videos without boxes (Table 1): kcf follows random boxes; null: none."""
    allow_missing: bool = False
    """Build even if videos of the splits are missing; the manifest lists them."""
    num_tasks: int | None = Field(default=None, ge=1)
    """Number of shards built at the same time; by default the number of CPUs."""
    video_seconds: float = Field(default=300, gt=0)
    """Time limit for a video, in seconds; a slower one is quarantined."""
    max_megapixels: MaxMegapixels = DEFAULT_MAX_MEGAPIXELS
    """Quarantine a video whose pictures have more pixels than this many million; 36 is enough for
    8K."""

    @field_validator("layout")
    @classmethod
    def _exists(cls, name: str) -> str:
        if name not in LAYOUTS:
            hint = near_miss(name, LAYOUTS)
            raise ValueError(f"unknown layout {name!r}{hint}: expected {', '.join(LAYOUTS)}")
        return name
