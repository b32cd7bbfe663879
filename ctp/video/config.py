"""Which frames and which part of them a clip shows, and how it is varied."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Le, MinLen, MultipleOf
from pydantic import model_validator

from ctp.config import Config

Probability = Annotated[float, Ge(0), Le(1)]


class SamplingConfig(Config):
    """The frames of a clip. The defaults are the paper's (§5.1)."""

    num_frames: Annotated[int, Ge(2)] = 16
    """T, frames in a clip."""
    min_interval_frames: Annotated[int, Ge(1)] = 1
    """Least distance between frames of a clip, in frames of the video."""
    max_interval_frames: Annotated[int, Ge(1)] = 5
    """Greatest distance; each between the two is as likely."""
    temporal_jitter: bool = False
    """Whether each frame is moved by less than an interval (the authors' implementation)."""
    min_video_frames: Annotated[int, Ge(1)] = 2
    """A video with fewer frames is quarantined: it shows no motion."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_interval_frames > self.max_interval_frames:
            raise ValueError(
                f"min_interval_frames {self.min_interval_frames} exceeds max_interval_frames "
                f"{self.max_interval_frames}"
            )
        return self


class AugmentConfig(Config):
    """Augmentation of a clip. The defaults are those of the authors' implementation."""

    frame_size_px: Annotated[int, Ge(8), MultipleOf(2)] = 112
    """Height and width of a clip, even: video stores colour at half the size."""
    short_sides_px: Annotated[tuple[int, ...], MinLen(1)] = (112, 128, 144)
    """Lengths to scale a video's shorter side to, before the crop; each as likely."""
    flip_prob: Probability = 0.5
    """Probability of a mirrored clip."""
    hue_saturation_prob: Probability = 0.25
    """Probability that hue and saturation change, alike in all frames."""
    max_hue_shift_degrees: Annotated[float, Ge(0), Le(180)] = 12.0
    """Greatest turn of the hue."""
    max_log_saturation: Annotated[float, Ge(0)] = 0.1
    """Greatest |log| of the saturation factor."""
    brightness_prob: Probability = 0.5
    """Probability that brightness changes."""
    max_brightness_shift: Annotated[float, Ge(0)] = 30.0
    """Greatest value added to a pixel (of 255), drawn at key frames."""
    contrast_prob: Probability = 0.5
    """Probability that contrast changes."""
    max_log_contrast: Annotated[float, Ge(0)] = 0.12
    """Greatest |log| of the factor on a pixel, drawn at key frames."""
    colors_drift: bool = True
    """Whether brightness and contrast vary over a clip, or are the same in all its frames."""
    color_inner_key_frame_probs: tuple[Probability, ...] = (0.7, 0.3)
    """Probability of 0, 1, … key frames between the first and the last, for colours."""
    color_easing_probs: tuple[Probability, Probability, Probability] = (0.7, 0.15, 0.15)
    """Probability of linear, accelerated and decelerated change between key frames."""


class ViewsConfig(Config):
    """The views of a video. The defaults are the paper's (supplement A)."""

    num_clips: Annotated[int, Ge(1)] = 10
    """Clips of each video."""
    num_frames: Annotated[int, Ge(1)] = 16
    """T, frames in a clip."""
    interval_frames: Annotated[int, Ge(1)] = 2
    """Distance between frames of a clip, in frames of the video."""
    placement: Literal["ends", "middles"] = "ends"
    """Where the clips lie: from the first frame to the last one, evenly (VCOP), or each in the
    middle of an equal part of the video (the authors' implementation). One clip is in the middle
    either way."""
    frame_size_px: Annotated[int, Ge(8), MultipleOf(2)] = 112
    """Height and width of a clip, even: video stores colour at half the size."""
    short_side_px: Annotated[int, Ge(8)] = 128
    """Length to scale a video's shorter side to, before the middle is cut out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frame_size_px > self.short_side_px:
            raise ValueError(
                f"frame_size_px {self.frame_size_px} exceeds short_side_px {self.short_side_px}"
            )
        return self
