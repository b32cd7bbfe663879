"""The numbers of the game, and its two presets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from ctp.config import Config
from ctp.keyframes import LINEAR

Probability = Annotated[float, Ge(0), Le(1)]


class GameConfig(Config):
    """The rules of Catch-the-Patch. The defaults are the paper's (§3.3, §5.1, supplement G)."""

    num_patches: Annotated[int, Ge(1)] = 3
    """K, trajectories in a clip (Table 2a)."""

    box_sizes_px: tuple[float, ...] = ()
    """First box sizes to choose from; empty: uniform between the two bounds below."""
    min_box_size_px: Annotated[float, Gt(0)] = 16.0
    """Least size of a first box; its area is size²."""
    max_box_size_px: Annotated[float, Gt(0)] = 64.0
    """Greatest size of a first box."""
    aspect_ratios: tuple[float, ...] = ()
    """Width/height ratios to choose from; empty: log-uniform in [1/max, max]."""
    max_aspect_ratio: Annotated[float, Ge(1)] = 2.0
    """Greatest width/height ratio of a first box, and the inverse of the least."""
    max_log_box_jitter: Annotated[float, Ge(0)] = 0.0
    """Width and height are each multiplied by e^u, u uniform within ± this."""

    inner_key_frame_probs: tuple[Probability, ...] = (0.0, 1 / 3, 1 / 3, 1 / 3)
    """Probability of 0, 1, 2, … key frames between the first and the last."""
    key_frames_per: Literal["patch", "clip"] = "patch"
    """Whether every patch has key frames of its own, or the patches of a clip share them."""
    separate_size_key_frames: bool = False
    """Whether sizes change at other key frames than positions."""
    max_speed_px_per_frame: Annotated[float, Ge(0)] = 3.0
    """Greatest move of a centre along each axis, per frame between key frames (Table 10)."""
    max_log_scale_per_frame: Annotated[float, Ge(0)] = 0.025
    """Greatest |log| of the size ratio, per frame between key frames (Table 10)."""
    scale_width_and_height_apart: bool = False
    """Whether width and height scale by ratios of their own."""
    easing_probs: tuple[Probability, Probability, Probability] = LINEAR
    """Probability of linear, accelerated and decelerated motion between key frames."""
    whole_pixel_boxes: bool = False
    """Whether boxes are rounded to whole pixels and clipped to the frame."""

    patch_source: Literal["trajectory", "other_clip"] = "trajectory"
    """Where patches are cut: from a frame of the same clip at one of the trajectory's boxes (the
    paper's game), or from a frame of another video at that box (salient: learnt in minutes)."""
    shape_probs: tuple[Probability, Probability, Probability] = (1.0, 0.0, 0.0)
    """Probability that a patch is a rectangle, an ellipse, a rhombus."""
    soft_edge_prob: Probability = 0.0
    """Probability that a patch fades towards its edge."""
    soft_edge_start: tuple[float, float] = (0.30, 0.45)
    """Range of the distance from the centre, in box sizes, where fading starts; it ends at .5."""
    min_opacity: Annotated[float, Gt(0), Le(1)] = 1.0
    """Opacity is drawn in [this, 1] at key frames."""
    large_first: bool = False
    """Whether larger patches are pasted first, so that they cannot hide the small ones."""

    hidden_prob: Probability = 0.2
    """Probability that a patch is hidden in a frame, its box staying a target (MRM, §3.3)."""
    never_hidden_in: tuple[Literal["first_frame", "source_frame"], ...] = ()
    """Frames in which a patch is always shown."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_box_size_px > self.max_box_size_px:
            raise ValueError(
                f"min_box_size_px {self.min_box_size_px} exceeds max_box_size_px "
                f"{self.max_box_size_px}"
            )
        for name in ("inner_key_frame_probs", "easing_probs", "shape_probs"):
            total = sum(getattr(self, name))
            if abs(total - 1) > 1e-6:
                raise ValueError(f"{name} must sum to 1, got {total:g}")
        low, high = self.soft_edge_start
        if not 0 <= low <= high < 0.5:
            raise ValueError(f"soft_edge_start must be 0 <= low <= high < .5, got {low}, {high}")
        if any(size <= 0 for size in self.box_sizes_px + self.aspect_ratios):
            raise ValueError("box_sizes_px and aspect_ratios must be positive")
        return self


def paper() -> GameConfig:
    """The game as the paper describes it (§3.3, supplement G)."""
    return GameConfig()


def official() -> GameConfig:
    """The game as the authors' published implementation plays it."""
    return GameConfig(
        box_sizes_px=(16, 24, 28, 32, 48, 64),
        aspect_ratios=(0.5, 0.67, 0.75, 1.0, 1.33, 1.5, 2.0),
        max_log_box_jitter=0.18,
        inner_key_frame_probs=(0.5, 0.3, 0.2),
        key_frames_per="clip",
        separate_size_key_frames=True,
        scale_width_and_height_apart=True,
        easing_probs=(0.7, 0.15, 0.15),
        whole_pixel_boxes=True,
        shape_probs=(0.5, 0.35, 0.15),
        soft_edge_prob=0.5,
        min_opacity=0.8,
        large_first=True,
        never_hidden_in=("first_frame", "source_frame"),
    )


PRESETS = {"paper": paper, "official": official}
