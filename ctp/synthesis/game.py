"""One round of Catch-the-Patch on the frames of a clip."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctp.clip import Trajectories
from ctp.synthesis.compose import paste
from ctp.synthesis.config import GameConfig
from ctp.synthesis.patch import sample_looks
from ctp.synthesis.trajectory import sample_trajectories


def play(
    frames: NDArray[np.uint8],
    config: GameConfig,
    rng: np.random.Generator,
    donors: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], Trajectories]:
    """Cut K patches, let them fly over the frames, hide them now and then (§3.3).

    A pure function of its arguments. All patches are cut before the first one is pasted.

    Args:
        frames: uint8 [T, H, W, 3], T at least 2.
        config: the rules.
        rng: source of randomness.
        donors: uint8 [K, H, W, 3], a frame of another video for each patch, needed and used if
            `config.patch_source` is "other_clip".

    Returns:
        The pasted frames, uint8 [T, H, W, 3], and the trajectories.

    Raises:
        ValueError: `frames` has fewer than two frames, or the donors that the rules ask for are
            missing or of another size.
    """
    num_frames, height, width, _ = frames.shape
    if num_frames < 2:
        raise ValueError(f"the game needs at least 2 frames, got {num_frames}")
    trajectories = sample_trajectories(config, num_frames, (width, height), rng)
    looks = sample_looks(config, num_frames, rng)
    sources = _sources(frames, trajectories, config, donors)
    order = _paste_order(config, trajectories)
    return paste(frames, trajectories, looks, sources, order), trajectories


def _sources(
    frames: NDArray[np.uint8],
    trajectories: Trajectories,
    config: GameConfig,
    donors: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    """The picture each patch is cut from, uint8 [K, H, W, 3]."""
    if config.patch_source == "trajectory":
        return frames[trajectories.source_frame]
    wanted = (config.num_patches, *frames.shape[1:])
    if donors is None or donors.shape != wanted:
        came = "none" if donors is None else f"an array of {donors.shape}"
        raise ValueError(f"patch_source 'other_clip' needs donors of {wanted}, got {came}")
    return donors


def _paste_order(config: GameConfig, trajectories: Trajectories) -> NDArray[np.int64]:
    if not config.large_first:
        return np.arange(config.num_patches)
    # large first, or they hide the small ones
    size = (trajectories.boxes[..., 2:] - trajectories.boxes[..., :2]).mean(axis=1)
    return np.argsort(-size.prod(axis=1), kind="stable")
