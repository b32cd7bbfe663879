"""The rules of Catch-the-Patch, and the options of the task."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from ctp.config import Config, NotAnOption
from ctp.first_box import MAX_ASPECT_RATIO, SIZE_PX
from ctp.keyframes import LINEAR
from ctp.pretext.task_config import TaskConfig

Probability = Annotated[float, Ge(0), Le(1)]
LOSS_PARTS = ("loss_center", "loss_size")
"""Names of the parts of the loss in the log; their sum is the loss."""


class CommonRules(Config):
    """Rules that users set. The defaults are the paper's (§3.3, §5.1, supplement G)."""

    num_patches: Annotated[int, Ge(1)] = 3
    """K, trajectories in a clip (Table 2a)."""
    box_size_px: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = SIZE_PX
    """Minimum and maximum size of a first box, whose area is size²; rules "official" have a fixed
    list of sizes instead, in proportion to the frame."""
    max_speed_px_per_frame: Annotated[float, Ge(0)] = 3.0
    """Largest move of a patch's centre along each axis, in pixels a frame (Table 10)."""
    max_log_scale_per_frame: Annotated[float, Ge(0)] = 0.025
    """Largest |log| of the ratio of a patch's sizes in two consecutive frames (Table 10)."""
    hidden_prob: Probability = 0.2
    """Probability that a patch is hidden in a frame while its box stays a target (MRM, §3.3)."""
    patch_source: Literal["trajectory", "other_clip"] = "trajectory"
    """Cut patches from a frame of the clip itself, at one of the trajectory's boxes, as in the
    paper; or from another video, at the same box, which is much easier to learn."""


class GameConfig(CommonRules):
    """All rules. The defaults are the paper's (§3.3, §5.1, supplement G)."""

    box_sizes_px: tuple[float, ...] = ()
    """First box sizes to choose from; empty: uniform in `box_size_px`."""
    aspect_ratios: tuple[float, ...] = ()
    """Width/height ratios to choose from; empty: log-uniform in [1/max, max]."""
    max_aspect_ratio: Annotated[float, Ge(1)] = MAX_ASPECT_RATIO
    """Largest width/height ratio of a first box, and the inverse of the smallest."""
    max_log_box_jitter: Annotated[float, Ge(0)] = 0.0
    """Width and height are each multiplied by e^u, u uniform within ± this."""

    inner_key_frame_probs: tuple[Probability, ...] = (0.0, 1 / 3, 1 / 3, 1 / 3)
    """Probability of 0, 1, 2, … key frames between the first and the last."""
    key_frames_per: Literal["patch", "clip"] = "patch"
    """Whether each patch has its own key frames and easing, or the patches of a clip share them."""
    half_open_key_frame_shift: bool = False
    """Whether the greatest shift of inner key frames to later frames is excluded."""
    separate_size_key_frames: bool = False
    """Whether sizes and positions have separate key frames."""
    independent_width_and_height: bool = False
    """Whether width and height scale by separate ratios."""
    easing_probs: tuple[Probability, Probability, Probability] = LINEAR
    """Probability of linear, accelerated and decelerated motion between key frames."""
    whole_pixel_boxes: bool = False
    """Whether boxes are rounded to whole pixels and clipped to the frame."""

    shape_probs: tuple[Probability, Probability, Probability] = (1.0, 0.0, 0.0)
    """Probability that a patch is a rectangle, an ellipse, a rhombus."""
    soft_edge_prob: Probability = 0.0
    """Probability that a patch fades towards its edge."""
    soft_edge_start: tuple[float, float] = (0.30, 0.45)
    """Range of the distance from the centre, in box sizes, where fading starts; it ends at .5."""
    min_opacity: Annotated[float, Gt(0), Le(1)] = 1.0
    """Opacity is drawn in [this, 1] at key frames."""
    blending: Literal["exact", "official"] = "exact"
    """How patches are masked and mixed with the frame, see `paste`."""
    large_first: bool = False
    """Whether larger patches are pasted first, so that they do not cover the small ones."""

    never_hidden_in: tuple[Literal["first_frame", "source_frame"], ...] = ()
    """Frames in which a patch is always shown."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.box_size_px[0] > self.box_size_px[1]:
            raise ValueError(f"box_size_px {self.box_size_px}: the minimum exceeds the maximum")
        for name in ("inner_key_frame_probs", "easing_probs", "shape_probs"):
            total = sum(getattr(self, name))
            if abs(total - 1) > 1e-6:
                raise ValueError(f"{name} must sum to 1, got {total:g}")
        low, high = self.soft_edge_start
        if not 0 <= low <= high < 0.5:
            raise ValueError(f"soft_edge_start must be 0 <= low <= high < .5, got {low}, {high}")
        if any(size <= 0 for size in self.box_sizes_px + self.aspect_ratios):
            raise ValueError(
                f"box_sizes_px {self.box_sizes_px} and aspect_ratios {self.aspect_ratios} must be "
                "positive"
            )
        return self


PAPER = GameConfig()
"""The paper's rules (§3.3, supplement G)."""
OFFICIAL = GameConfig(
    box_sizes_px=(16, 24, 28, 32, 48, 64),
    aspect_ratios=(0.5, 0.67, 0.75, 1.0, 1.33, 1.5, 2.0),
    max_log_box_jitter=0.18,
    inner_key_frame_probs=(0.5, 0.3, 0.2),
    key_frames_per="clip",
    half_open_key_frame_shift=True,
    separate_size_key_frames=True,
    independent_width_and_height=True,
    easing_probs=(0.7, 0.15, 0.15),
    whole_pixel_boxes=True,
    shape_probs=(0.5, 0.35, 0.15),
    soft_edge_prob=0.5,
    min_opacity=0.8,
    blending="official",
    large_first=True,
    never_hidden_in=("first_frame", "source_frame"),
)
"""The rules of the authors' published code, for frames of `OFFICIAL_FRAME_SIZE_PX`."""
OFFICIAL_FRAME_SIZE_PX = 112
RULES = {"paper": PAPER, "official": OFFICIAL}


class HeadConfig(Config):
    """The prediction head. The defaults are the paper's (§3.2, §5.1)."""

    squeeze: Annotated[bool, NotAnOption()] = True
    """Squeeze time by a T'×1×1 convolution before RoIAlign (supplement F)."""
    hidden_channels: Annotated[int, Ge(1), NotAnOption()] = 512
    """Channels of the squeeze and of the two-layer perceptron."""
    init: Annotated[Literal["official", "torch"], NotAnOption()] = "official"
    """Initial weights of the perceptron's first layer: N(0, .001) as in the authors' code, or as
    `nn.Linear` draws them. All its inputs are positive, so that AdamW moves such small weights of a
    unit to one side; most units then never fire again, sometimes all of them."""
    learning_rate_share: Annotated[float, Gt(0), NotAnOption()] = 1.0
    """Learning rate of the head divided by that of the encoder."""


Sigma = tuple[
    Annotated[float, Gt(0)],
    Annotated[float, Gt(0)],
    Annotated[float, Gt(0)],
    Annotated[float, Gt(0)],
]


class CtpConfig(CommonRules, TaskConfig):
    """Catch-the-Patch. The defaults are the paper's (§3.3, §5.1, supplement G)."""

    name: Literal["ctp"] = "ctp"
    """The pretext task."""
    labels: Literal["preset", "annotated", "cycle"] = "preset"
    """Where the boxes to predict come from (Table 1): preset paths of patches; boxes in the shards
    of the videos; or the model's own backward tracking, reversed. Evaluation is always on preset
    paths."""
    preset_share: Annotated[Probability, NotAnOption()] = 0.25
    """Share of clips with preset paths when `labels` is "cycle"; without such clips, the model
    learns that boxes stay still (§5.2)."""
    rules: Literal["paper", "official"] = "paper"
    """The rules of the paper, or those of the authors' published code, which differ in shapes, soft
    edges, blending, key frames, box sizes and distances between frames."""
    inner_key_frame_probs: Annotated[tuple[Probability, ...] | None, NotAnOption()] = None
    """Probability of 0, 1, 2, … key frames between the first and the last; none: the rules'."""
    curriculum: tuple[Probability, Probability] | None = None
    """Two shares of the run. Until the first, all patches are cut from other videos; between them,
    linearly fewer; then none. none: `patch_source` in the whole run, as in the paper."""
    head: HeadConfig = HeadConfig()
    """The head that predicts the boxes."""
    sigma: Sigma = (0.8, 0.8, 0.04, 0.04)
    """Scales of the targets x, y, w, h (§3.2, Table 9)."""

    @property
    def game(self) -> GameConfig:
        """Return all rules."""
        chosen = {name: getattr(self, name) for name in CommonRules.model_fields}
        if self.inner_key_frame_probs is not None:
            chosen["inner_key_frame_probs"] = self.inner_key_frame_probs
        rules = RULES[self.rules]
        scale = self.augment.frame_size_px / OFFICIAL_FRAME_SIZE_PX
        chosen["box_sizes_px"] = tuple(size * scale for size in rules.box_sizes_px)
        return rules.replace(**chosen)

    def other_clip_share(self, progress: float) -> float:
        """Return the share of samples whose patches the curriculum cuts from other clips.

        Args:
            progress: share of the run before the sample, in [0, 1].
        """
        if self.curriculum is None:
            return 0.0
        start, stop = self.curriculum
        if progress < start:
            return 1.0
        return (stop - progress) / (stop - start) if progress < stop else 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.box_size_px[1] > self.augment.frame_size_px:
            raise ValueError(
                f"box_size_px {self.box_size_px} exceeds augment.frame_size_px "
                f"{self.augment.frame_size_px}"
            )
        if self.curriculum is not None and self.curriculum[0] > self.curriculum[1]:
            raise ValueError(f"curriculum {self.curriculum}: the first share exceeds the second")
        assert self.game  # validates the rules
        return self
