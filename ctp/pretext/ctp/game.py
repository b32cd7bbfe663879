"""The patches of a clip: their trajectories and appearance, drawn without reading any pixel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ctp.pretext.ctp.appearance import sample_appearance
from ctp.pretext.ctp.config import GameConfig
from ctp.pretext.ctp.trajectory import sample_trajectories


class Game(NamedTuple):
    """The K patches of a clip as arrays, or those of a batch as tensors with a leading B.

    Attributes:
        boxes: float32 [K, T, 4], xyxy pixels.
        visible: bool [K, T]; False where the patch is hidden though its box is a target (MRM).
        source_frame: int64 [K], the frame whose box the patch is cut from.
        shape: int64 [K], one of RECTANGLE, ELLIPSE, RHOMBUS.
        soft_edge_start: float64 [K], distance from the centre in box sizes where the patch starts
            to fade; HARD_EDGE for none.
        opacity: float32 [K, T] in (0, 1].
        order: int64 [K], which patch is pasted first, second, …
    """

    boxes: Any
    visible: Any
    source_frame: Any
    shape: Any
    soft_edge_start: Any
    opacity: Any
    order: Any


def draw_game(
    config: GameConfig, num_frames: int, size_px: tuple[int, int], rng: np.random.Generator
) -> Game:
    """Draw the trajectories and the appearance of a clip's patches (§3.3).

    Args:
        config: the rules.
        num_frames: T, at least 2.
        size_px: (width, height) of the clip.
        rng: source of randomness.

    Raises:
        ValueError: there are fewer than two frames.
    """
    if num_frames < 2:
        raise ValueError(f"the game needs at least 2 frames, got {num_frames}")
    boxes, visible, source_frame = sample_trajectories(config, num_frames, size_px, rng)
    shape, soft_edge_start, opacity = sample_appearance(config, num_frames, rng)
    order = np.arange(config.num_patches)
    if config.large_first:  # or large patches would hide the small ones
        size = (boxes[..., 2:] - boxes[..., :2]).mean(axis=1)
        order = np.argsort(-size.prod(axis=1), kind="stable")
    return Game(boxes, visible, source_frame, shape, soft_edge_start, opacity, order)
