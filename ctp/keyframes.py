"""Values that are drawn at a few key frames of a clip and interpolated between them.

They are used for the boxes (supplement G), opacity, brightness and contrast. The number of key
frames varies between clips. The arrays have the maximum number and repeat the last frame, so that
unused segments have length 0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LINEAR = (1.0, 0.0, 0.0)
"""Easing probabilities for segments that are all linear."""


def choose(probs: tuple[float, ...], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each uniform number in [0, 1) which of the outcomes it stands for.

    Rounding may make the sum of `probs` a little less than 1, so that the result is len(probs).
    """
    return _cumulative(probs).searchsorted(draws, "right")


@lru_cache
def _cumulative(probs: tuple[float, ...]) -> NDArray[np.float64]:
    return np.cumsum(probs)


def sample_key_frames(
    num_rows: int,
    num_frames: int,
    inner_probs: tuple[float, ...],
    rng: np.random.Generator,
    *,
    half_open_shift: bool = False,
) -> NDArray[np.int64]:
    """Draw the key frames of `num_rows` independent trajectories.

    The first and the last frame are always key frames. The inner ones are equally spaced and then
    each shifted by at most a third of the spacing.

    Args:
        num_rows: R, number of trajectories.
        num_frames: T, at least 2.
        inner_probs: probability of 0, 1, 2, … inner key frames; sums to 1.
        rng: source of randomness.
        half_open_shift: whether the greatest shift to later frames is excluded, as in the authors'
            code.

    Returns:
        int64 [R, M], M = len(inner_probs) + 1, never falling along a row, from 0 to T - 1.
    """
    most_inner = len(inner_probs) - 1
    num_inner = choose(inner_probs, rng.random(num_rows))
    num_inner = np.minimum(num_inner, most_inner)[:, None]  # the sum may be 0.999…
    spacing = num_frames / (num_inner + 1)
    number = np.arange(1, most_inner + 1)
    max_shift = (spacing / 3).astype(np.int64)  # neighbours cannot meet
    # floor of a uniform number instead of rng.integers, since the range differs between rows
    num_shifts = np.maximum(2 * max_shift + (not half_open_shift), 1)
    shift = np.floor(rng.random((num_rows, most_inner)) * num_shifts).astype(np.int64)
    shift -= max_shift
    last = num_frames - 1
    key_frames = np.zeros((num_rows, most_inner + 2), np.int64)
    # key frames that a row does not have repeat its last frame, so that all rows have one length
    key_frames[:, 1:-1] = np.where(
        number <= num_inner, np.minimum((spacing * number).astype(np.int64) + shift, last), last
    )
    key_frames[:, -1] = last
    return key_frames


def interpolate(
    values: NDArray[np.float64],
    key_frames: NDArray[np.int64],
    easing_probs: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    shared_easing: bool = False,
) -> NDArray[np.float64]:
    """Interpolate the values between key frames.

    Args:
        values: float64 [R, M, D], the values at the key frames.
        key_frames: int64 [R, M] as returned by `sample_key_frames`.
        easing_probs: probability that a segment is linear, of constant acceleration (progress
            p²) or of constant deceleration (1 - (1 - p)²).
        rng: source of randomness.
        shared_easing: whether a segment has the same easing in all rows.

    Returns:
        float64 [R, T, D], equal to `values` at the key frames. At repeated key frames, the first
        value counts.
    """
    rows, num_keys = key_frames.shape
    easing = choose(easing_probs, rng.random((1 if shared_easing else rows, num_keys - 1)))
    frame = np.arange(key_frames[0, -1] + 1)
    # a frame belongs to the first segment that ends at or after it, which is never an empty one
    segment = (frame[None, :, None] > key_frames[:, None, 1:-1]).sum(axis=2)
    row = np.arange(rows)[:, None]
    start, stop = key_frames[row, segment], key_frames[row, segment + 1]
    # an empty segment is never chosen, but must not divide by 0
    progress = (frame - start) / np.maximum(stop - start, 1)
    kind = easing[0, segment] if shared_easing else easing[row, segment]
    if kind.any():  # most segments are linear
        progress = np.where(
            kind == 0, progress, np.where(kind == 1, progress**2, 1 - (1 - progress) ** 2)
        )
    progress = progress[..., None]
    filled: NDArray[np.float64] = (
        values[row, segment] * (1 - progress) + values[row, segment + 1] * progress
    )
    return filled
