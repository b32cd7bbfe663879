"""Clips of annotated videos, as samples of Catch-the-Patch without patches (Table 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctp.data.annotated import Objects, Track
from ctp.data.object_crop import hold_object, sample_tracked, seen_in
from ctp.video.config import SamplingConfig
from ctp.video.planes import Crop


def sample_objects(
    config: SamplingConfig,
    objects: Objects,
    num_objects: int,
    draw_crop: Callable[[np.random.Generator], Crop],
    size_px: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], Crop, NDArray[np.float32], NDArray[np.float32]]:
    """Draw a clip that shows objects, and choose up to K of them.

    The first frame shows an object, and the crop contains it in all frames where this is possible.

    Args:
        config: which frames make a clip.
        objects: the objects of the video; at least one box counts.
        num_objects: K. If fewer are in the first frame, the rest has weight 0.
        draw_crop: draws a random crop.
        size_px: S, width and height of the clip.
        rng: source of randomness.

    Returns:
        frames int64 [T], the crop, boxes float32 [K, T, 4] in xyxy pixels of the clip, and weights
        float32 [K, T], 0 where an object is absent or outside of the crop.
    """
    has_object = np.asarray((objects.weights > 0).any(axis=0))
    any_object = replace(objects.tracks[0], counted=has_object)
    frames = sample_tracked(config, any_object, rng)
    present = np.flatnonzero(objects.weights[:, frames[0]] > 0)
    chosen = rng.permutation(present)[:num_objects]
    same_target = objects.parts[:, frames] == objects.parts[:, frames[:1]]
    weights = objects.weights[:, frames] * same_target
    main = _in_clip(objects.tracks[chosen[0]], weights[chosen[0]], frames)
    crop = hold_object(draw_crop(rng), main, np.arange(len(frames)))
    boxes = np.zeros((num_objects, len(frames), 4), np.float32)
    counts = np.zeros(boxes.shape[:2], np.float32)
    for row, number in enumerate(chosen):
        boxes[row], is_seen = seen_in(crop, objects.tracks[number], frames, size_px)
        # without a box in the first frame there is no query
        counts[row] = weights[number] * is_seen * is_seen[0]
    boxes[len(chosen) :] = boxes[0, 0]
    # a box that does not count is a copy of one that does, so that all numbers are finite
    boxes = np.where(counts[..., None] > 0, boxes, boxes[0, 0])
    return frames, crop, boxes, counts


def _in_clip(track: Track, weights: NDArray[np.float32], frames: NDArray[np.int64]) -> Track:
    """Return the part of a track that a clip shows."""
    return replace(track, boxes=track.boxes[frames], counted=weights > 0)
