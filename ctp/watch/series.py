"""Curves with few points, as the page draws them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 400
"""Points of a curve; more would be finer than the page."""
WINDOW_SHARE = 1 / 25
"""Share of a curve in the window of its moving mean, as in `curves.png`."""

Point = tuple[int, float, float | None, float | None]
"""Step, value of the strong line, and the least and the greatest value near the step, or None."""


def points(
    steps: NDArray[np.int64], values: NDArray[np.float64], *, smooth: bool = False
) -> list[Point]:
    """Return a curve of at most `MAX_POINTS` points; values that are not finite are left out.

    Args:
        steps: int64 [N], ascending.
        values: float64 [N].
        smooth: let the strong line be a moving mean, and give the range of the values beside it.
    """
    is_finite = np.isfinite(values)
    steps, values = steps[is_finite], values[is_finite]
    if not len(steps):
        return []
    # groups of consecutive values, of equal length up to 1
    starts = np.linspace(0, len(steps), min(len(steps), MAX_POINTS), endpoint=False).astype(int)
    ends = np.append(starts[1:], len(steps))
    means = np.add.reduceat(values, starts) / (ends - starts)
    last = steps[ends - 1].tolist()
    if not smooth:
        return [(step, _rounded(mean), None, None) for step, mean in zip(last, means, strict=True)]
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    columns = (moving_mean(means), low, high)
    return [
        (step, *map(_rounded, numbers))
        for step, *numbers in zip(last, *(each.tolist() for each in columns), strict=True)
    ]


def moving_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a centred window, cut off at the ends, float64 [N]."""
    half = max(round(len(values) * WINDOW_SHARE), 1) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centres = np.arange(len(values))
    first, end = np.maximum(centres - half, 0), np.minimum(centres + half + 1, len(values))
    mean: NDArray[np.float64] = (sums[end] - sums[first]) / (end - first)
    return mean


def _rounded(value: float) -> float:
    """Return a number with five digits, which are enough for a curve and shorten the data."""
    digits = 4 - math.floor(math.log10(abs(value))) if value else 0
    return round(float(value), digits)
