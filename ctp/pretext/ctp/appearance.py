"""The appearance of patches: shape, soft edge, and opacity over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctp.keyframes import LINEAR, choose, interpolate, sample_key_frames
from ctp.pretext.ctp.config import GameConfig

RECTANGLE, ELLIPSE, RHOMBUS = range(3)
HARD_EDGE = 0.5
"""A `soft_edge_start` at the edge itself: no fading."""


def sample_appearance(
    config: GameConfig, num_frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]]:
    """Draw the appearance of the K patches of a clip.

    Returns:
        shape int64 [K], soft_edge_start float64 [K] and opacity float32 [K, T], see `Game`.
    """
    k = config.num_patches
    shape = choose(config.shape_probs, rng.random(k))
    soft = rng.random(k) < config.soft_edge_prob
    # drawn for hard edges too, so that the number of draws does not depend on the values
    start = np.where(soft, rng.uniform(*config.soft_edge_start, size=k), HARD_EDGE)
    # the cumulative sum may end a little below 1 and give shape 3
    return np.minimum(shape, RHOMBUS), start, _sample_opacity(config, num_frames, rng)


def _sample_opacity(
    config: GameConfig, num_frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    k = config.num_patches
    if config.min_opacity == 1:
        return np.ones((k, num_frames), np.float32)
    keys = sample_key_frames(
        k,
        num_frames,
        config.inner_key_frame_probs,
        rng,
        half_open_shift=config.half_open_key_frame_shift,
    )
    values = rng.uniform(config.min_opacity, 1, size=(*keys.shape, 1))
    return interpolate(values, keys, LINEAR, rng)[..., 0].astype(np.float32)
