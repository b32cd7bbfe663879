"""What is pasted: the shape of a patch, its soft edge, and how opaque it is over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctp.keyframes import LINEAR, interpolate, sample_key_frames
from ctp.pretext.ctp.config import GameConfig

RECTANGLE, ELLIPSE, RHOMBUS = range(3)
HARD_EDGE = 0.5
"""A `soft_edge_start` at the edge itself: no fading."""


@dataclass(frozen=True)
class PatchLooks:
    """How the K patches of a clip look.

    Attributes:
        shape: int64 [K], one of RECTANGLE, ELLIPSE, RHOMBUS.
        soft_edge_start: float64 [K], distance from the centre in box sizes where fading starts;
            HARD_EDGE for none.
        opacity: float32 [K, T] in (0, 1].
    """

    shape: NDArray[np.int64]
    soft_edge_start: NDArray[np.float64]
    opacity: NDArray[np.float32]

    def is_opaque(self, k: int) -> bool:
        """Whether patch `k` covers every pixel of its box wholly, so that no blending is needed."""
        return bool(
            self.shape[k] == RECTANGLE
            and self.soft_edge_start[k] == HARD_EDGE
            and (self.opacity[k] == 1).all()
        )


def sample_looks(config: GameConfig, num_frames: int, rng: np.random.Generator) -> PatchLooks:
    """Draw the looks of the `config.num_patches` patches of a clip."""
    k = config.num_patches
    shape = np.searchsorted(np.cumsum(config.shape_probs), rng.random(k), side="right")
    soft = rng.random(k) < config.soft_edge_prob
    start = np.where(soft, rng.uniform(*config.soft_edge_start, size=k), HARD_EDGE)
    return PatchLooks(np.minimum(shape, RHOMBUS), start, _sample_opacity(config, num_frames, rng))


def _sample_opacity(
    config: GameConfig, num_frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    k = config.num_patches
    if config.min_opacity == 1:
        return np.ones((k, num_frames), np.float32)
    keys = sample_key_frames(k, num_frames, config.inner_key_frame_probs, rng)
    values = rng.uniform(config.min_opacity, 1, size=(*keys.shape, 1))
    return interpolate(values, keys, LINEAR, rng)[..., 0].astype(np.float32)


def patch_alpha(
    x: NDArray[np.float32], y: NDArray[np.float32], shape: int, soft_edge_start: float
) -> NDArray[np.float32]:
    """How much of a patch shows at a place in its box, before opacity.

    The distance from the centre is max(|x|, |y|) for a rectangle, √(x² + y²) for an ellipse and
    |x| + |y| for a rhombus. A soft edge falls linearly from 1 at a distance of `soft_edge_start` to
    0 at .5; a hard one is 1 below .5 and 0 beyond, and a hard rectangle is 1 in all its box.

    Args:
        x, y: float32 [...], place relative to the box's centre in box sizes, -.5 … .5 inside.
        shape: RECTANGLE, ELLIPSE or RHOMBUS.
        soft_edge_start: in box sizes, HARD_EDGE for a hard edge.

    Returns:
        float32 [...] in [0, 1], of the shape that `x` and `y` broadcast to.
    """
    if shape == RECTANGLE and soft_edge_start == HARD_EDGE:
        return np.ones(np.broadcast_shapes(x.shape, y.shape), np.float32)
    if shape == RECTANGLE:
        distance = np.maximum(np.abs(x), np.abs(y))
    elif shape == ELLIPSE:
        distance = np.sqrt(x * x + y * y)
    else:
        distance = np.abs(x) + np.abs(y)
    if soft_edge_start == HARD_EDGE:
        return (distance < 0.5).astype(np.float32)
    return np.clip((0.5 - distance) / np.float32(0.5 - soft_edge_start), 0, 1)
