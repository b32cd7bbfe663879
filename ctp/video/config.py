"""Configs of the frames of a clip, their augmentation, and the views of a video."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, MinLen, MultipleOf
from pydantic import model_validator

from ctp.config import Config, NotAnOption

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Probability = Annotated[float, Ge(0), Le(1)]
MaxMegapixels = Annotated[float, Gt(0), Le(1000)]
"""Millions of pixels; FFmpeg itself decodes at most 268."""


class SamplingConfig(Config):
    """The frames of a clip. The defaults are the paper's (§5.1)."""

    num_frames: Annotated[int, Ge(2)] = 16
    """T, frames in a clip."""
    interval_frames: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (1, 5)
    """Minimum and maximum distance between frames of a clip, in frames of the video; each distance
    between has the same probability."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.interval_frames
        if low > high:
            raise ValueError(f"interval_frames: the minimum {low} exceeds the maximum {high}")
        return self

    @property
    def middle_interval_frames(self) -> int:
        """Return the distance between the frames of views and features."""
        return sum(self.interval_frames) // 2

    @property
    def middle_span_frames(self) -> int:
        """Return how many frames of the video a clip of the middle interval spans."""
        return self.middle_interval_frames * (self.num_frames - 1) + 1


class AugmentConfig(Config):
    """The crop of a clip. The defaults are those of the authors' implementation."""

    frame_size_px: Annotated[int, Ge(8), MultipleOf(2)] = 112
    """Height and width of a clip; even, because video stores colour at half the size."""
    short_sides_px: Annotated[tuple[int, ...], MinLen(1)] = (112, 128, 144)
    """Lengths that a video's shorter side is scaled to before the crop, each with the same
    probability."""
    keeps_aspect_ratio: Annotated[bool, NotAnOption()] = True
    """Whether the longer side is scaled like the shorter one. Otherwise a picture is stretched to
    4:3, or 3:4 if it is higher than wide: 149×112, 171×128 or 192×144 pixels."""
    flip_prob: Probability = 0.5
    """Probability of a mirrored clip."""

    @property
    def middle_short_side_px(self) -> int:
        """Return the length of the shorter side for views and features."""
        sides = sorted(self.short_sides_px)
        return max(sides[len(sides) // 2], self.frame_size_px)


class ViewsConfig(Config):
    """The views of a video for evaluation. The defaults are the paper's (supplement A), but for
    the aspect ratio."""

    num_clips: Annotated[int, Ge(1)] = 10
    """Number of clips of each video."""
    num_frames: Annotated[int, Ge(1)] = 16
    """T, frames in a clip."""
    interval_frames: Annotated[int, Ge(1)] = 2
    """Distance between frames of a clip, in frames of the video."""
    placement: Literal["ends", "middles"] = "ends"
    """Where the clips are: "ends" spaces them evenly from the first frame to the last (VCOP), and
    "middles" centres each in an equal part of the video, as in the authors' code."""
    frame_size_px: Annotated[int, Ge(8), MultipleOf(2)] = 112
    """Height and width of a clip, even because chroma has half the size."""
    short_side_px: Annotated[int, Ge(8)] = 128
    """Length to which a video's shorter side is scaled before the centre crop."""
    keeps_aspect_ratio: bool = True
    """Whether the longer side is scaled like the shorter one. Otherwise a picture is stretched to
    4:3, or 3:4 if it is higher than wide, as in the paper: 171×128 pixels."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frame_size_px > self.short_side_px:
            raise ValueError(
                f"frame_size_px {self.frame_size_px} exceeds short_side_px {self.short_side_px}"
            )
        return self


class ClipFormat(Config):
    """The clips that an encoder was trained on, as its file records them. All fields are required:
    a default of today may not be what an older encoder was trained on."""

    num_frames: int
    """T, frames in a clip."""
    interval_frames: tuple[int, int]
    """Minimum and maximum distance between frames of a clip, in frames of the video."""
    frame_size_px: int
    """Height and width of a clip."""
    short_sides_px: tuple[int, ...]
    """Lengths that a video's shorter side was scaled to before the crop."""
    keeps_aspect_ratio: bool
    """Whether the longer side was scaled like the shorter one, see `AugmentConfig`."""
    mean: tuple[float, float, float]
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[float, float, float]
    """Divides red, green and blue afterwards."""

    @classmethod
    def from_training(cls, sampling: SamplingConfig, augment: AugmentConfig) -> Self:
        """Return the format of the clips that a run draws."""
        return cls(
            **sampling.model_dump(),
            **augment.model_dump(exclude={"flip_prob"}),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )

    @classmethod
    def from_views(cls, views: ViewsConfig) -> Self:
        """Return the format of the clips of an evaluation."""
        return cls(
            num_frames=views.num_frames,
            interval_frames=(views.interval_frames, views.interval_frames),
            frame_size_px=views.frame_size_px,
            short_sides_px=(views.short_side_px,),
            keeps_aspect_ratio=views.keeps_aspect_ratio,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )

    @property
    def sampling(self) -> SamplingConfig:
        """Return which frames of a video make such a clip."""
        return SamplingConfig(num_frames=self.num_frames, interval_frames=self.interval_frames)

    @property
    def augment(self) -> AugmentConfig:
        """Return how such a clip is cropped; it is mirrored as often as by default."""
        return AugmentConfig(
            frame_size_px=self.frame_size_px,
            short_sides_px=self.short_sides_px,
            keeps_aspect_ratio=self.keeps_aspect_ratio,
        )

    def views(self, num_clips: int = 1) -> ViewsConfig:
        """Return the views of a video whose clips are of the middle interval and size."""
        return ViewsConfig(
            num_clips=num_clips,
            num_frames=self.num_frames,
            interval_frames=self.sampling.middle_interval_frames,
            placement="middles",
            frame_size_px=self.frame_size_px,
            short_side_px=self.augment.middle_short_side_px,
            keeps_aspect_ratio=self.keeps_aspect_ratio,
        )

    def describe(self) -> str:
        """Return e.g. "16 frames of 112×112, 1 to 5 frames apart"."""
        size = self.frame_size_px
        return f"{self.num_frames} frames of {size}×{size}, {_apart(self.interval_frames)}"

    def describe_differences(self, trained: ClipFormat) -> str:
        """Return what differs from the clips that an encoder was trained on; "" if nothing does.

        An interval or a shorter side within the range of the training is no difference.
        """
        here, there = self.frame_size_px, trained.frame_size_px
        parts = []
        if self.num_frames != trained.num_frames:
            parts.append(f"{self.num_frames} frames instead of {trained.num_frames}")
        if here != there:
            parts.append(f"{here}×{here} pixels instead of {there}×{there}")
        elif not _is_within(self.short_sides_px, trained.short_sides_px):
            sides = (_range(each.short_sides_px) for each in (self, trained))
            parts.append("a shorter side of {} px before the crop instead of {}".format(*sides))
        if not _is_within(self.interval_frames, trained.interval_frames):
            own = _apart(self.interval_frames)
            parts.append(f"{own} instead of {_range(trained.interval_frames)}")
        if self.keeps_aspect_ratio != trained.keeps_aspect_ratio:
            kinds = ["pictures stretched to 4:3", "pictures in their own aspect ratio"]
            chosen = kinds[self.keeps_aspect_ratio], kinds[trained.keeps_aspect_ratio]
            parts.append(" instead of ".join(chosen))
        if (self.mean, self.std) != (trained.mean, trained.std):
            parts.append(
                f"colours normalised by mean {self.mean} and deviation {self.std} instead of "
                f"{trained.mean} and {trained.std}"
            )
        return ", ".join(parts)


def _range(values: tuple[int, ...]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _apart(interval_frames: tuple[int, int]) -> str:
    return f"{_range(interval_frames)} frame{'s' if max(interval_frames) > 1 else ''} apart"


def _is_within(values: tuple[int, ...], limits: tuple[int, ...]) -> bool:
    return min(limits) <= min(values) and max(values) <= max(limits)
