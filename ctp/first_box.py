"""The rule of first boxes (§3.3), for the patches of the game and for the tracker KCF."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIZE_PX = (16.0, 64.0)
"""Minimum and maximum size of a box in frames of 112 px; its area is size²."""
MAX_ASPECT_RATIO = 2.0
"""Largest ratio of width to height, and the inverse of the smallest."""


def box_sides(
    size: float | Floats,
    log_ratio: float | Floats,
    frame_size: NDArray[Any],
    log_jitter: float | Floats = 0.0,
) -> Floats:
    """Return width and height of boxes that fit into a frame, float64 [..., 2] in pixels.

    Args:
        size: float [...], square root of the area.
        log_ratio: float [...], logarithm of width over height.
        frame_size: float [2], width and height of the frame.
        log_jitter: float [..., 2], logarithm of a further factor on each side.
    """
    ratio = np.asarray(log_ratio)
    # half to each side, so that the area stays size²
    half_log_ratio = np.stack([ratio, -ratio], axis=-1) / 2
    sides = np.asarray(size)[..., None] * np.exp(half_log_ratio + log_jitter)
    # a large and narrow box can be longer than the frame
    fitting: Floats = sides.clip(1, frame_size - 1)
    return fitting
