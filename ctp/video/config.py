"""Configs of the frames of a clip, their augmentation, and the views of a video."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, MinLen, MultipleOf
from pydantic import model_validator

from ctp.config import Config, NotAnOption

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
